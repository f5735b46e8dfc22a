"""Optimal matchings between barcodes: which bar became which."""

import numpy as np
import scipy

from lossatlas.plots import pairs as pair_plots
from lossatlas.plots.chart import backends
from lossatlas.result import Estimate, Figure, Result, quantity, result
from lossatlas.topology.arguments import check_norm
from lossatlas.topology.bars import Bars, Essential, finite_bars
from lossatlas.topology.field import Floats, Ints

# A bracket starts with this share of the way, and ends where so few levels are left.
_STEPS, _FEW = 16, 500


@result("matching")
class Matching(Result):
    """Bars of two diagrams side by side.

    Attributes:
        first: (bars, 2) of the first diagram, those that took part.
        second: (bars, 2) of the second.
        pairs: (pairs, 2) row numbers into `first` and `second`; -1 is the diagonal. Every
            bar appears once.
        costs: distance of each pair in the ground norm.
        distance: the distance of the diagrams that this matching attains.

    Examples:
        >>> found = match_bars([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.1]])
        >>> found.pairs.tolist(), round(found.distance, 3)
        ([[0, 0], [-1, 1]], 0.502)
    """

    first: Floats = quantity("loss")
    second: Floats = quantity("loss")
    pairs: Ints
    costs: Floats = quantity("loss")
    distance: float = quantity("loss")

    def estimates(self) -> tuple[Estimate, ...]:
        """The distance, and how many bars found a partner."""
        both = float(np.count_nonzero((self.pairs >= 0).all(axis=1)))
        why = "exact for these bars"
        return (
            Estimate(self.distance, why_no_error=why, name="distance", unit="loss"),
            Estimate(both, why_no_error=why, name="bars with a partner"),
            Estimate(len(self.pairs) - both, why_no_error=why, name="bars without a partner"),
        )

    def figures(self) -> tuple[Figure, ...]:
        """Both diagrams in one, with the steps from bar to bar; none without a bar."""
        if not len(self.pairs):
            return ()
        return (
            Figure(
                "matching",
                "Matched bars",
                *backends(
                    lambda: pair_plots.matching_chart(self.first, self.second, self.steps())
                ),
                "One mark a bar. A line joins it with its partner, or with the diagonal where "
                "it has none.",
                f"Two persistence diagrams with {len(self.pairs)} lines between their bars.",
            ),
        )

    def steps(self) -> tuple[Floats, Floats]:
        """From where to where each bar moves: two arrays (pairs, 2) of births and deaths."""
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
    """The cheapest matching of two barcodes.

    Args:
        first: a `Diagram`, or births and deaths.
        second: another.
        order: exponent of the Wasserstein distance; with infinity the matching attains the
            bottleneck distance and, among those that do, has the least sum.
        ground: norm in the plane of births and deaths.
        dimension: the degree.
        essential: the rule for essential bars ("drop", "cap", a level).

    Returns:
        The matching. Exact; cubic in the number of bars.

    Raises:
        ArgumentError: bad bars, or an order or a norm below 1.

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
        # The same as below, without a third axis.
        births, deaths = (np.abs(a[:, k, None] - b[None, :, k]) for k in (0, 1))
        cost = np.maximum(births, deaths, out=births)
    else:
        cost = np.linalg.norm(a[:, None] - b[None], ord=ground, axis=2)
    shrink = 2.0 ** (1.0 / ground - 1.0)
    return cost, (a[:, 1] - a[:, 0]) * shrink, (b[:, 1] - b[:, 0]) * shrink


def bottleneck_level(cost: Floats, stay_a: Floats, stay_b: Floats) -> float:
    """The least level at which every bar finds a partner or the diagonal, exactly."""
    sides = _Side(cost, stay_a), _Side(np.ascontiguousarray(cost.T), stay_b)
    least = max(side.least for side in sides)
    # Bars that all stay are served, so the level is between these two, mostly near the first.
    most = max(stay_a.max(initial=0.0), stay_b.max(initial=0.0))
    below, level, step = -np.inf, least, (most - least) / _STEPS
    while True:
        for side in sides:
            side.keep_edges(level)
        if level >= most or _all_served(sides, level):
            break
        below, level, step = level, min(level + step, most), 2 * step
    if np.isinf(below):
        return least
    steps = np.concatenate([sides[0].costs, stay_a, stay_b])
    levels = steps[(steps > below) & (steps <= level)]
    return _least_served(sides, levels)


def _least_served(sides: tuple["_Side", "_Side"], levels: Floats) -> float:
    # The greatest of them is served.
    while levels.size > _FEW:
        typical = float(np.median(levels[:: levels.size // _FEW]))
        kept = levels <= typical if _all_served(sides, typical) else levels > typical
        if kept.all():
            break
        levels = levels[kept]
    levels = np.unique(levels)
    low, high = 0, levels.size - 1
    while low < high:
        middle = (low + high) // 2
        if _all_served(sides, float(levels[middle])):
            high = middle
        else:
            low = middle + 1
    return float(levels[low])


def _all_served(sides: tuple["_Side", "_Side"], level: float) -> bool:
    # Only bars too long for the diagonal need a partner; a matching that serves those of the
    # one side and one that serves those of the other combine to one that serves both
    # (Mendelsohn and Dulmage), so each side is asked alone.
    return all(side.is_served(level) for side in sides)


class _Side:
    """The bars of one diagram, which look for partners among those of the other.

    Args:
        cost: from each of them to each of the others.
        stay: from each of them to the diagonal.

    Attributes:
        least: below this level some bar has nowhere to go.
        costs: of the edges that are kept.
    """

    def __init__(self, cost: Floats, stay: Floats) -> None:
        self._cost, self._stay = cost, stay
        nearest = cost.min(axis=1, initial=np.inf)
        self.least = float(np.minimum(stay, nearest).max(initial=0.0))

    def keep_edges(self, level: float) -> None:
        """Look at no edges above a level from now on."""
        rows, columns = np.nonzero(self._cost <= level)
        self.costs = self._cost[rows, columns]
        self._rows, self._columns = rows.astype(np.int32), columns.astype(np.int32)

    def is_served(self, level: float) -> bool:
        """Whether all bars that are too long for the diagonal have partners."""
        long = self._stay > level
        need = int(np.count_nonzero(long))
        if need == 0:
            return True
        kept = (self.costs <= level) & long[self._rows]
        degrees = np.bincount(self._rows[kept], minlength=len(long))
        if np.count_nonzero(degrees) < need:
            return False
        starts = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int32)
        columns = self._columns[kept]
        edges = np.ones(columns.size, dtype=np.int8)
        graph = scipy.sparse.csr_array((edges, columns, starts), shape=self._cost.shape)
        partner = scipy.sparse.csgraph.maximum_bipartite_matching(graph, perm_type="column")
        return int(np.count_nonzero(partner >= 0)) >= need


def _forbid(
    cost: Floats, stay_a: Floats, stay_b: Floats, limit: float
) -> tuple[Floats, Floats, Floats]:
    # One forbidden step must cost more than all the allowed ones together.
    fine = 1.0 + limit * (len(stay_a) + len(stay_b))
    a, b, c = (np.where(part <= limit, part, fine) for part in (cost, stay_a, stay_b))
    return a, b, c


def _assign(cost: Floats, stay_a: Floats, stay_b: Floats) -> Ints:
    # Relative to leaving all of `b` on the diagonal, a pair gains what its bar would cost.
    n, m = cost.shape
    table = np.concatenate([cost - stay_b, np.repeat(stay_a[:, None], n, axis=1)], axis=1)
    rows, columns = scipy.optimize.linear_sum_assignment(table)
    partner = np.where(columns < m, columns, -1)
    alone = np.setdiff1d(np.arange(m), partner)
    left = np.stack([np.full(alone.size, -1), alone], axis=1)
    return np.concatenate([np.stack([rows, partner], axis=1), left]).astype(np.int64)


def _pair_costs(pairs: Ints, cost: Floats, stay_a: Floats, stay_b: Floats) -> Floats:
    i, j = pairs.T
    paid = np.empty(len(pairs))
    both, lone_a, lone_b = (i >= 0) & (j >= 0), j < 0, i < 0
    paid[both] = cost[i[both], j[both]]
    paid[lone_a] = stay_a[i[lone_a]]
    paid[lone_b] = stay_b[j[lone_b]]
    return paid
