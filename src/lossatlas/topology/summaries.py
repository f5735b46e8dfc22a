"""Scalar summaries of barcodes, and their spread over repeated planes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_number
from lossatlas.errors import DataError
from lossatlas.result import Estimate
from lossatlas.topology.arguments import check_norm
from lossatlas.topology.bars import Bars, Essential, finite_bars


def total_persistence(
    diagram: Bars,
    *,
    order: float = 1.0,
    dimension: int = 0,
    essential: Essential | float = "drop",
) -> float:
    """Sum of the lengths of the bars, each raised to a power.

    Args:
        diagram: a `Diagram`, or births and deaths.
        order: the power.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        The sum (not its root).

    Raises:
        ArgumentError: the bars are invalid, or `order` is not a number >= 0.

    Examples:
        >>> total_persistence([[0.0, 2.0], [1.0, 1.5]])
        2.5
    """
    check_number("order", order, 0)
    return float((_lengths(diagram, dimension, essential) ** order).sum())


def amplitude(
    diagram: Bars,
    *,
    order: float = np.inf,
    ground: float = np.inf,
    dimension: int = 0,
    essential: Essential | float = "drop",
) -> float:
    """Wasserstein distance to the empty diagram.

    Args:
        diagram: a `Diagram`, or births and deaths.
        order: exponent of the Wasserstein distance; infinity is the bottleneck distance.
        ground: norm in the plane of births and deaths.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        The distance; half the longest bar if `order` and `ground` are infinity.

    Raises:
        ArgumentError: the bars are invalid, or `order` or `ground` is below 1.

    Examples:
        >>> amplitude([[0.0, 2.0], [1.0, 1.5]])
        1.0
    """
    check_norm("order", order)
    check_norm("ground", ground)
    # Along each axis a bar is half its length from the nearest point of the diagonal.
    apart = _lengths(diagram, dimension, essential) * 2.0 ** (1.0 / ground - 1.0)
    return float(np.linalg.norm(apart, order)) if apart.size else 0.0


def entropy(
    diagram: Bars,
    *,
    normalized: bool = False,
    dimension: int = 0,
    essential: Essential | float = "drop",
) -> float:
    """Persistent entropy: Shannon entropy of the bars' shares of the total length, in nats.

    Args:
        diagram: a `Diagram`, or births and deaths.
        normalized: divide by the logarithm of the number of bars.
        dimension: the degree.
        essential: the rule for essential bars. With "cap" the deepest basin outweighs the
            others; with "drop" it is ignored.

    Returns:
        A number between 0 and log(bars), or between 0 and 1 if normalized; 0 for fewer than two
        bars. Its exponential is the effective number of bars. It is invariant to shift and
        scale of the field.

    Examples:
        >>> entropy([[0.0, 2.0], [1.0, 3.0]], normalized=True)
        1.0
    """
    lengths = _lengths(diagram, dimension, essential)
    if lengths.size < 2:
        return 0.0
    # Relative to the longest bar, because the sum of the lengths may overflow.
    shares = lengths / lengths.max()
    shares /= shares.sum()
    # A share may underflow; x log x tends to 0.
    shares = shares[shares > 0]
    value = float(-(shares * np.log(shares)).sum())
    return value / float(np.log(lengths.size)) if normalized else value


def statistics(
    diagram: Bars, *, dimension: int = 0, essential: Essential | float = "drop"
) -> dict[str, float]:
    """Summary statistics of a barcode.

    Args:
        diagram: a `Diagram`, or births and deaths.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        `count`; `total`, `entropy`, `normalized_entropy`; `mean_birth`, the mean birth weighted
        by length; `runner_up`, the second longest bar over the longest; and `mean`, `median`,
        `sd`, `q25`, `q75`, `max` of the lengths and the midpoints of the bars (as
        `length_mean`, `middle_sd`, ...). Zeros without bars.

    Examples:
        >>> numbers = statistics([[0.0, 2.0], [1.0, 1.5]])
        >>> numbers["count"], numbers["total"], numbers["runner_up"]
        (2.0, 2.5, 0.25)
    """
    bars = finite_bars(diagram, dimension, essential)
    births, deaths = bars.T
    lengths = np.sort(deaths - births)[::-1]
    total = float(lengths.sum())
    numbers = {
        "count": float(lengths.size),
        "total": total,
        "entropy": entropy(bars),
        "normalized_entropy": entropy(bars, normalized=True),
        "mean_birth": float(births @ (deaths - births) / total) if total else 0.0,
        "runner_up": float(lengths[1] / lengths[0]) if lengths.size > 1 else 0.0,
    }
    for name, series in (("length", lengths), ("middle", (births + deaths) / 2)):
        numbers |= {f"{name}_{key}": value for key, value in _moments(series).items()}
    return numbers


def _moments(series: np.ndarray) -> dict[str, float]:
    names = ("mean", "median", "sd", "q25", "q75", "max")
    if series.size == 0:
        return dict.fromkeys(names, 0.0)
    q25, median, q75 = np.quantile(series, (0.25, 0.5, 0.75))
    values = (series.mean(), median, series.std(), q25, q75, series.max())
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _lengths(diagram: Bars, dimension: int, essential: Essential | float) -> np.ndarray:
    bars = finite_bars(diagram, dimension, essential)
    return np.asarray(bars[:, 1] - bars[:, 0])


def spread(repeats: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """Mean and standard error of every summary over repeated planes.

    Args:
        repeats: one mapping of numbers per plane, all with the same names (as from
            `statistics`).

    Returns:
        A dict from name to the mean over the planes, with its standard error and `samples`, the
        number of planes. The standard deviation between planes is `stderr * sqrt(samples)`.

    Raises:
        DataError: there are no planes, names differ, or values are not numbers.

    Examples:
        >>> smad = spread([{"smad": 1.0}, {"smad": 3.0}])["smad"]
        >>> smad.value, smad.stderr
        (2.0, 1.0)
    """
    planes = list(repeats) if isinstance(repeats, list | tuple) else []
    if not planes or not all(isinstance(numbers, Mapping) for numbers in planes):
        raise DataError(
            "`repeats` must be a list of mappings, at least one, all with the same names; "
            f"got {len(planes)} in a {type(repeats).__name__}."
        )
    if any(numbers.keys() != planes[0].keys() for numbers in planes):
        raise DataError("`repeats` must all have the same names; got some that differ.")
    return {
        name: _spread(
            name, as_float_array(f"repeats[...][{name!r}]", [plane[name] for plane in planes])
        )
        for name in planes[0]
    }


def _spread(name: str, values: np.ndarray) -> Estimate:
    if values.size == 1:
        return Estimate(float(values[0]), samples=1, why_no_error="one plane", name=name)
    error = float(np.std(values, ddof=1)) / math.sqrt(values.size)
    return Estimate(
        float(np.mean(values)), error, samples=values.size, sample_unit="planes", name=name
    )
