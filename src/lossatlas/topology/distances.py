"""Distances between barcodes, with explicit order, ground norm and rule for essential bars."""

import numpy as np

from lossatlas.checks import check_at_least, check_number
from lossatlas.errors import MissingDependencyError
from lossatlas.topology.arguments import check_norm
from lossatlas.topology.bars import Bars, Essential, finite_bars, read_bars
from lossatlas.topology.field import Floats
from lossatlas.topology.matching import bottleneck_level, ground_costs, match_bars

# Beyond this many bars the exact assignment takes seconds, so Hera is used.
_EXACT = 1500
# Pairs of bars whose distances fit into 100 MB; beyond, Hera is used, which needs no table.
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
        essential: the rule for bars that never end. "keep" matches them among themselves by
            their births; unequal numbers of them are infinitely far apart. "drop" ignores them,
            so all basins of a map but the deepest are compared. "cap" ends them at the largest
            value of their field, a number at that level.
        delta: allowed relative error, which makes many thousands of bars feasible. Used only by
            Hera, beyond 2,000 bars per diagram; below, the distance is exact.

    Returns:
        The distance, in units of the field; infinite if the essential bars are kept and differ
        in number. With "keep" it is at most the maximum difference of two fields of the same
        shape that are finite at the same points.

    Raises:
        ArgumentError: the bars are invalid, or `delta` is not a number >= 0.

    Examples:
        >>> bottleneck([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.1]])
        0.5
    """
    check_number("delta", delta, 0)
    a, b = (read_bars(source, dimension, essential) for source in (first, second))
    finite_a, finite_b, apart = _match_essential(a, b)
    far = float(apart.max(initial=0.0))
    if np.isinf(far) or not (len(finite_a) or len(finite_b)):
        return far
    if len(finite_a) * len(finite_b) > _TABLE:
        try:
            from gudhi.hera import bottleneck_distance
        except ImportError:
            pass
        else:
            return max(far, float(bottleneck_distance(finite_a, finite_b, delta)))
    return max(far, bottleneck_level(*ground_costs(finite_a, finite_b, np.inf)))


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
        order: exponent, 1 or more.
        ground: norm in the plane of births and deaths (gudhi and Hera: infinity; persim: 2).
        dimension: the degree.
        essential: the rule for bars that never end, as for `bottleneck`.
        delta: allowed relative error beyond 1,500 bars, where Hera is used; below, the distance
            is exact.

    Returns:
        The distance, in units of the field; infinite if the essential bars are kept and differ
        in number.

    Raises:
        ArgumentError: the bars are invalid, `order` or `ground` is below 1, or `delta` is
            negative.
        MissingDependencyError: there are more than 1,500 bars and gudhi is not installed.

    Examples:
        >>> round(wasserstein([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.2]], delta=0.0), 3)
        0.6
    """
    check_norm("order", order)
    check_norm("ground", ground)
    check_number("delta", delta, 0)
    a, b = (read_bars(source, dimension, essential) for source in (first, second))
    finite_a, finite_b, apart = _match_essential(a, b)
    if np.isinf(apart).any():
        return float("inf")
    if len(finite_a) + len(finite_b) <= _EXACT:
        inner = match_bars(finite_a, finite_b, order=order, ground=ground).distance
    else:
        inner = _hera(finite_a, finite_b, order, ground, delta)
    steps = np.append(apart, inner)
    return float(np.linalg.norm(steps, order))


def _hera(a: Floats, b: Floats, order: float, ground: float, delta: float) -> float:
    try:
        from gudhi.hera import wasserstein_distance
    except ImportError:
        raise MissingDependencyError(
            f"`first` and `second` have {len(a) + len(b)} bars, which needs gudhi, and it is "
            f"not installed; install it, or keep at most {_EXACT} bars."
        ) from None
    return float(wasserstein_distance(a, b, order=order, internal_p=ground, delta=delta))


def _match_essential(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
    # Finite bars of both, and the differences between the births of the essential ones.
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
    """Mean over directions of the 1-Wasserstein distance between the projected barcodes.

    Each barcode is completed by the projections of the other's bars onto the diagonal; both are
    projected onto lines at equally spaced angles in [-90, 90) degrees.

    Args:
        first: a `Diagram`, or births and deaths.
        second: another.
        directions: number of lines.
        dimension: the degree.
        essential: the rule for essential bars ("drop", "cap", a level).

    Returns:
        The distance, in units of the field, in persim's convention.

    Raises:
        ArgumentError: `directions` is below 1, or the bars are invalid.

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
