"""Optimal matchings between barcodes."""

import numpy as np
import scipy

from lossatlas.plots import pairs as pair_plots
from lossatlas.plots.chart import backends
from lossatlas.result import Estimate, Figure, Result, quantity, result
from lossatlas.topology.arguments import check_norm
from lossatlas.topology.bars import Bars, Essential, finite_bars
from lossatlas.topology.field import Floats, Ints

# The bracket starts with this fraction of the range; bisection stops at this many levels.
_STEPS, _FEW = 16, 500


@result("matching")
class Matching(Result):
    """Optimal matching of the bars of two diagrams.

    Attributes:
        first: (bars, 2) matched bars of the first diagram.
        second: (bars, 2) matched bars of the second.
        pairs: (pairs, 2) row numbers of `first` and `second`; -1 is the diagonal. Every bar
            appears once.
        costs: distance of each pair in the ground norm.
        distance: the distance between the diagrams, attained by this matching.

    Examples:
        >>> matching = match_bars([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.1]])
        >>> matching.pairs.tolist(), round(matching.distance, 3)
        ([[0, 0], [-1, 1]], 0.502)
    """

    first: Floats = quantity("loss")
    second: Floats = quantity("loss")
    pairs: Ints
    costs: Floats = quantity("loss")
    distance: float = quantity("loss")

    def estimates(self) -> tuple[Estimate, ...]:
        """The distance, and the number of bars with and without a partner."""
        matched = float(np.count_nonzero((self.pairs >= 0).all(axis=1)))
        why = "exact for these bars"
        return (
            Estimate(self.distance, why_no_error=why, name="distance", unit="loss"),
            Estimate(matched, why_no_error=why, name="bars with a partner"),
            Estimate(
                len(self.pairs) - matched, why_no_error=why, name="bars without a partner"
            ),
        )

    def figures(self) -> tuple[Figure, ...]:
        """Both diagrams in one, with lines between matched bars; none without bars."""
        if not len(self.pairs):
            return ()
        return (
            Figure(
                "matching",
                "Matched bars",
                *backends(
                    lambda: pair_plots.matching_chart(self.first, self.second, self.steps())
                ),
                "One mark per bar. A line connects it to its partner, or to the diagonal if it "
                "has none.",
                f"Two persistence diagrams with {len(self.pairs)} lines between their bars.",
            ),
        )

    def steps(self) -> tuple[Floats, Floats]:
        """Start and end of each bar: two arrays (pairs, 2) of births and deaths."""
        starts, ends = np.empty((len(self.pairs), 2)), np.empty((len(self.pairs), 2))
        for row, (i, j) in enumerate(self.pairs.tolist()):
            # A bar without a partner goes to the nearest point of the diagonal.
            starts[row] = self.first[i] if i >= 0 else self.second[j].mean()
            ends[row] = self.second[j] if j >= 0 else self.first[i].mean()
        return starts, ends


def match_bars(
    first: Bars,
    second: Bars,
    *,
    order: float = 2.0,
    ground: float = np.inf,
    dimension: int = 0,
    essential: Essential | float = "drop",
) -> Matching:
    """Compute the matching of two barcodes with the lowest cost.

    Args:
        first: a `Diagram`, or births and deaths.
        second: another.
        order: exponent of the Wasserstein distance. With infinity the matching attains the
            bottleneck distance and has the smallest sum among those that do.
        ground: norm in the plane of births and deaths.
        dimension: the degree.
        essential: the rule for essential bars ("drop", "cap", a level).

    Returns:
        The exact matching, at a cost cubic in the number of bars.

    Raises:
        ArgumentError: the bars are invalid, or `order` or `ground` is below 1.

    Examples:
        >>> match_bars([[0.0, 2.0]], [[0.5, 2.0]]).distance
        0.5
    """
    check_norm("order", order)
    check_norm("ground", ground)
    a, b = (finite_bars(source, dimension, essential) for source in (first, second))
    cost, stay_a, stay_b = ground_costs(a, b, ground)
    if np.isinf(order):
        limit = bottleneck_level(cost, stay_a, stay_b)
        pairs = _assign(*_forbid(cost, stay_a, stay_b, limit))
    else:
        pairs = _assign(cost**order, stay_a**order, stay_b**order)
    costs = _pair_costs(pairs, cost, stay_a, stay_b)
    distance = float(np.linalg.norm(costs, order)) if costs.size else 0.0
    return Matching(a, b, pairs, costs, distance)


def ground_costs(a: Floats, b: Floats, ground: float) -> tuple[Floats, Floats, Floats]:
    """Distances between bars, and from bars to the diagonal."""
    if np.isinf(ground):
        # The same as below without a third axis.
        births, deaths = (np.abs(a[:, k, None] - b[None, :, k]) for k in (0, 1))
        cost = np.maximum(births, deaths, out=births)
    else:
        cost = np.linalg.norm(a[:, None] - b[None], ord=ground, axis=2)
    shrink = 2.0 ** (1.0 / ground - 1.0)
    return cost, (a[:, 1] - a[:, 0]) * shrink, (b[:, 1] - b[:, 0]) * shrink


def bottleneck_level(cost: Floats, stay_a: Floats, stay_b: Floats) -> float:
    """Smallest level at which every bar has a partner or reaches the diagonal, exact."""
    sides = _Side(cost, stay_a), _Side(np.ascontiguousarray(cost.T), stay_b)
    low = max(side.least for side in sides)
    # All bars can go to the diagonal, so the level is between these two, mostly near the first.
    high = max(stay_a.max(initial=0.0), stay_b.max(initial=0.0))
    below, level, step = -np.inf, low, (high - low) / _STEPS
    while True:
        for side in sides:
            side.filter_edges(level)
        if level >= high or _all_matchable(sides, level):
            break
        below, level, step = level, min(level + step, high), 2 * step
    if np.isinf(below):
        return low
    steps = np.concatenate([sides[0].costs, stay_a, stay_b])
    levels = steps[(steps > below) & (steps <= level)]
    return _smallest_feasible(sides, levels)


def _smallest_feasible(sides: tuple["_Side", "_Side"], levels: Floats) -> float:
    # The largest level is always feasible.
    while levels.size > _FEW:
        typical = float(np.median(levels[:: levels.size // _FEW]))
        remaining = levels <= typical if _all_matchable(sides, typical) else levels > typical
        if remaining.all():
            break
        levels = levels[remaining]
    levels = np.unique(levels)
    low, high = 0, levels.size - 1
    while low < high:
        middle = (low + high) // 2
        if _all_matchable(sides, float(levels[middle])):
            high = middle
        else:
            low = middle + 1
    return float(levels[low])


def _all_matchable(sides: tuple["_Side", "_Side"], level: float) -> bool:
    # Only bars too long for the diagonal need a partner. A matching that covers those of one
    # side and one that covers those of the other combine to one that covers both (Mendelsohn
    # and Dulmage), so each side is checked on its own.
    return all(side.is_matchable(level) for side in sides)


class _Side:
    """The bars of one diagram, to be matched with those of the other.

    Args:
        cost: distance from each of them to each bar of the other diagram.
        stay: distance from each of them to the diagonal.

    Attributes:
        least: below this level some bar has no partner.
        costs: distances of the retained edges.
    """

    def __init__(self, cost: Floats, stay: Floats) -> None:
        self._cost, self._stay = cost, stay
        nearest = cost.min(axis=1, initial=np.inf)
        self.least = float(np.minimum(stay, nearest).max(initial=0.0))

    def filter_edges(self, level: float) -> None:
        """Drop all edges above a level."""
        rows, columns = np.nonzero(self._cost <= level)
        self.costs = self._cost[rows, columns]
        self._rows, self._columns = rows.astype(np.int32), columns.astype(np.int32)

    def is_matchable(self, level: float) -> bool:
        """Whether all bars that are too long for the diagonal have partners."""
        long = self._stay > level
        need = int(np.count_nonzero(long))
        if need == 0:
            return True
        usable = (self.costs <= level) & long[self._rows]
        degrees = np.bincount(self._rows[usable], minlength=len(long))
        if np.count_nonzero(degrees) < need:
            return False
        starts = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int32)
        columns = self._columns[usable]
        edges = np.ones(columns.size, dtype=np.int8)
        graph = scipy.sparse.csr_array((edges, columns, starts), shape=self._cost.shape)
        partner = scipy.sparse.csgraph.maximum_bipartite_matching(graph, perm_type="column")
        return int(np.count_nonzero(partner >= 0)) >= need


def _forbid(
    cost: Floats, stay_a: Floats, stay_b: Floats, limit: float
) -> tuple[Floats, Floats, Floats]:
    # One forbidden pair must cost more than all allowed pairs together.
    fine = 1.0 + limit * (len(stay_a) + len(stay_b))
    a, b, c = (np.where(part <= limit, part, fine) for part in (cost, stay_a, stay_b))
    return a, b, c


def _assign(cost: Floats, stay_a: Floats, stay_b: Floats) -> Ints:
    # Relative to matching all of `b` to the diagonal, a pair saves the cost of its bar.
    n, m = cost.shape
    table = np.concatenate([cost - stay_b, np.repeat(stay_a[:, None], n, axis=1)], axis=1)
    rows, columns = scipy.optimize.linear_sum_assignment(table)
    partner = np.where(columns < m, columns, -1)
    unmatched = np.setdiff1d(np.arange(m), partner)
    unmatched_b = np.stack([np.full(unmatched.size, -1), unmatched], axis=1)
    return np.concatenate([np.stack([rows, partner], axis=1), unmatched_b]).astype(np.int64)


def _pair_costs(pairs: Ints, cost: Floats, stay_a: Floats, stay_b: Floats) -> Floats:
    i, j = pairs.T
    paid = np.empty(len(pairs))
    matched, lone_a, lone_b = (i >= 0) & (j >= 0), j < 0, i < 0
    paid[matched] = cost[i[matched], j[matched]]
    paid[lone_a] = stay_a[i[lone_a]]
    paid[lone_b] = stay_b[j[lone_b]]
    return paid
