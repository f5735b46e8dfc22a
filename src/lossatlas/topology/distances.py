"""Distances between barcodes. Order, ground norm and essential bars are always explicit."""

import numpy as np

from lossatlas.checks import check_at_least, check_number
from lossatlas.errors import MissingDependencyError
from lossatlas.topology.arguments import check_norm
from lossatlas.topology.bars import Bars, Essential, finite_bars, read_bars
from lossatlas.topology.field import Floats
from lossatlas.topology.matching import bottleneck_level, ground_costs, match_bars

# Beyond this many bars the exact assignment takes seconds, and Hera takes over.
_EXACT = 1500
# Pairs of bars whose distances fit into 100 MB; beyond, Hera needs no table of them.
_TABLE = 4_000_000


def bottleneck(
    first: Bars,
    second: Bars,
    *,
    dimension: int = 0,
    essential: Essential | float = "keep",
    delta: float = 0.0,
) -> float:
    """Bottleneck distance: the longest step of the best matching, in the maximum norm.

    Args:
        first: a `Diagram`, or births and deaths.
        second: another.
        dimension: the degree.
        essential: the rule for bars that never end. With "keep" they are matched among
            themselves by their births, and unequal numbers of them are infinitely far apart.
            "drop" ignores them: of a map it compares all basins but the deepest. "cap" ends
            them at the greatest value of their own field, a number at that level.
        delta: relative error allowed; makes many thousands of bars feasible. Used by Hera
            only, beyond 2,000 bars a side; below, the distance is exact.

    Returns:
        The distance, in units of the field; infinite where the essential bars differ in
        number and are kept. With "keep" it is at most the greatest difference of two fields
        of the same shape, finite at the same points.

    Raises:
        ArgumentError: bad bars, or a `delta` that is no number >= 0.

    Examples:
        >>> bottleneck([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.1]])
        0.5
    """
    check_number("delta", delta, 0)
    a, b = (read_bars(source, dimension, essential) for source in (first, second))
    rest_a, rest_b, apart = _match_essential(a, b)
    far = float(apart.max(initial=0.0))
    if np.isinf(far) or not (len(rest_a) or len(rest_b)):
        return far
    if len(rest_a) * len(rest_b) > _TABLE:
        try:
            from gudhi.hera import bottleneck_distance
        except ImportError:
            pass
        else:
            return max(far, float(bottleneck_distance(rest_a, rest_b, delta)))
    return max(far, bottleneck_level(*ground_costs(rest_a, rest_b, np.inf)))


def wasserstein(
    first: Bars,
    second: Bars,
    *,
    order: float = 1.0,
    ground: float = np.inf,
    dimension: int = 0,
    essential: Essential | float = "keep",
    delta: float = 0.01,
) -> float:
    """Wasserstein distance: the `order`-norm of the steps of the best matching.

    Args:
        first: a `Diagram`, or births and deaths.
        second: another.
        order: 1 or more.
        ground: norm in the plane of births and deaths (gudhi and Hera: infinity; persim: 2).
        dimension: the degree.
        essential: the rule for bars that never end, as for `bottleneck`.
        delta: relative error allowed beyond 1,500 bars, where Hera computes; below, exact.

    Returns:
        The distance, in units of the field; infinite where the essential bars differ in
        number and are kept.

    Raises:
        ArgumentError: bad bars, an order or a norm below 1, or a `delta` below 0.
        MissingDependencyError: more than 1,500 bars need gudhi.

    Examples:
        >>> round(wasserstein([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.2]], delta=0.0), 3)
        0.6
    """
    check_norm("order", order)
    check_norm("ground", ground)
    check_number("delta", delta, 0)
    a, b = (read_bars(source, dimension, essential) for source in (first, second))
    rest_a, rest_b, apart = _match_essential(a, b)
    if np.isinf(apart).any():
        return float("inf")
    if len(rest_a) + len(rest_b) <= _EXACT:
        inner = match_bars(rest_a, rest_b, order=order, ground=ground).distance
    else:
        inner = _hera(rest_a, rest_b, order, ground, delta)
    steps = np.append(apart, inner)
    return float(np.linalg.norm(steps, order))


def _hera(a: Floats, b: Floats, order: float, ground: float, delta: float) -> float:
    try:
        from gudhi.hera import wasserstein_distance
    except ImportError:
        raise MissingDependencyError(
            f"`first` and `second` have {len(a) + len(b)} bars, for which gudhi is needed and "
            f"not installed; install it, or keep at most {_EXACT} bars."
        ) from None
    return float(wasserstein_distance(a, b, order=order, internal_p=ground, delta=delta))


def _match_essential(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
    # Finite bars of both, and the steps between the births of the essential ones.
    births = [np.sort(bars[np.isposinf(bars[:, 1]), 0]) for bars in (a, b)]
    finite = [bars[np.isfinite(bars[:, 1])] for bars in (a, b)]
    if births[0].size != births[1].size:
        return finite[0], finite[1], np.array([np.inf])
    return finite[0], finite[1], np.abs(births[0] - births[1])


def sliced_wasserstein(
    first: Bars,
    second: Bars,
    *,
    directions: int = 50,
    dimension: int = 0,
    essential: Essential | float = "drop",
) -> float:
    """Mean over directions of the 1-Wasserstein distance of the projected barcodes.

    Each barcode is completed by the feet, on the diagonal, of the other's bars; both are
    projected on lines at equal angles in [-90, 90) degrees.

    Args:
        first: a `Diagram`, or births and deaths.
        second: another.
        directions: number of lines.
        dimension: the degree.
        essential: the rule for essential bars ("drop", "cap", a level).

    Returns:
        The distance, in units of the field; persim's convention.

    Raises:
        ArgumentError: `directions` below 1, or bad bars.

    Examples:
        >>> sliced_wasserstein([[0.0, 2.0]], [[0.0, 2.0]])
        0.0

    Source: Carriere, Cuturi, Oudot, ICML 2017, definition 3.1.
    """
    check_at_least("directions", directions, 1)
    a, b = (finite_bars(source, dimension, essential) for source in (first, second))
    angles = np.linspace(-np.pi / 2, np.pi / 2, directions, endpoint=False)
    lines = np.stack([np.cos(angles), np.sin(angles)])
    feet_a, feet_b = (np.repeat(bars.mean(axis=1), 2).reshape(-1, 2) for bars in (a, b))
    u, v = (
        np.sort((np.concatenate(parts) @ lines).T, axis=1)
        for parts in ((a, feet_b), (b, feet_a))
    )
    return float(np.abs(u - v).sum() / directions)
