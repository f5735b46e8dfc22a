"""Betti matching: corresponding basins of two landscapes on one grid."""

import itertools
from typing import TypeAlias

import numpy as np

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.result import Estimate, Reference, Result, result
from lossatlas.text import count
from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.certainty import judge
from lossatlas.topology.diagram import MAP_COUNT
from lossatlas.topology.field import (
    CONNECTIVITIES,
    Bools,
    Connectivity,
    Floats,
    Ints,
    Source,
    read_field,
)
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.image_persistence import earliest_points
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.pairing import elder_rule

Pair: TypeAlias = tuple[int, int]


_MATCHING = Reference(
    "which basin is which",
    "N. Stucki, J. C. Paetzold, S. Shit, B. Menze, U. Bauer. Topologically Faithful Image "
    "Segmentation via Induced Matching of Persistence Barcodes. ICML 2023.",
    "https://arxiv.org/abs/2211.15272",
)


@result("basin-matching", references=(_MATCHING,))
class BasinMatching(Result):
    """Basins of two landscapes on one grid, matched by location.

    Attributes:
        first: merge tree of the first landscape.
        second: merge tree of the second.
        pairs: (pairs, 2) numbers of the minima of `first` and `second` that share a basin. A
            minimum without a partner is not listed: its basin is new or gone.

    Examples:
        >>> matching = match_basins([3.0, 0.0, 2.0, 1.0, 3.0], [3.0, 0.5, 3.0, 4.0, 5.0])
        >>> matching.pairs.tolist(), matching.gone.tolist(), matching.new.tolist()
        ([[0, 0]], [1], [])
    """

    first: MergeTree
    second: MergeTree
    pairs: Ints

    @property
    def gone(self) -> Ints:
        """Minima of the first landscape without a partner."""
        return np.setdiff1d(np.arange(len(self.first)), self.pairs[:, 0])

    @property
    def new(self) -> Ints:
        """Minima of the second landscape without a partner."""
        return np.setdiff1d(np.arange(len(self.second)), self.pairs[:, 1])

    @property
    def apart(self) -> Bools:
        """Whether the two minima of each pair lie in different locations.

        Both end at the same saddle, as happens when depths are nearly equal.
        """
        return np.array(
            [
                not (
                    _leads_to(self.second, int(self.first.minima[i]), int(j))
                    or _leads_to(self.first, int(self.second.minima[j]), int(i))
                )
                for i, j in self.pairs
            ],
            dtype=np.bool_,
        )

    def estimates(self) -> tuple[Estimate, ...]:
        """Number of basins matched, matched in another place, and found on one map only."""
        rows = (
            ("basins matched", len(self.pairs), "by shape (Betti matching)"),
            ("of these in another place", int(self.apart.sum()),
             "their match lies in a basin elsewhere on the map"),
            ("basins only on the first map", len(self.gone), "gone on the second"),
            ("basins only on the second map", len(self.new), "new on the second"),
        )  # fmt: skip
        return tuple(
            Estimate(float(value), why_no_error=MAP_COUNT, name=name, meaning=meaning)
            for name, value, meaning in rows
        )

    def certain_alone(self) -> dict[str, int]:
        """Number of basins without a partner that are deeper than the errors of their map."""
        parts = (("gone", self.gone, self.first), ("new", self.new, self.second))
        return {kind: int(np.sum(tree.counted[which])) for kind, which, tree in parts}

    def sentences(self, names: tuple[str, str] = ("A", "B")) -> tuple[str, ...]:
        """Which basins of one map also appear on the other.

        Args:
            names: names of the two maps.

        Returns:
            The sentences.
        """
        a, b = names
        pairs, gone, new = len(self.pairs), len(self.gone), len(self.new)
        sentences = [
            f"The maps around {a} and {b} have {len(self.first):,} and "
            f"{count(len(self.second), 'basin')}: {pairs:,} {_be(pairs)} matched by shape, "
            f"{gone:,} {_be(gone)} only around {a} and {new:,} {_be(new)} only around {b}."
        ]
        apart = int(self.apart.sum())
        if apart:
            sentences.append(
                f"{apart:,} of the matched {'lies' if apart == 1 else 'lie'} in another place "
                "on the other map: they end at the same saddle, as happens when depths are "
                "nearly equal."
            )
        if self.first.why_unknown or self.second.why_unknown:
            return (
                *sentences,
                "Which of them are certain is unknown: the maps have no errors.",
            )
        sure = self.certain_alone()
        if sum(sure.values()):
            sentences.append(
                f"Of those on one map only, {sure['gone']:,} around {a} and "
                f"{sure['new']:,} around {b} are certain: deeper than errors can explain."
            )
        elif gone + new:
            sentences.append(
                "Of those on one map only, none is certain: errors of the maps could cause "
                "each of them."
            )
        return tuple(sentences)


def _be(amount: int) -> str:
    return "is" if amount == 1 else "are"


def _leads_to(tree: MergeTree, point: int, minimum: int) -> bool:
    basin = int(tree.basins.ravel()[point])
    if basin < 0:
        return False
    climb = tree.barrier(basin, minimum) - float(tree.minima_values[basin])
    # If errors are unknown, no climb is within them.
    return basin == minimum or climb <= (0.0 if tree.why_unknown else tree.threshold)


def match_basins(
    first: Source, second: Source, *, connectivity: Connectivity = "full"
) -> BasinMatching:
    """Match the basins of two landscapes through their pointwise minimum.

    The sublevel sets of both fields are subsets of those of the pointwise minimum. As that
    common landscape is flooded, a basin of `first` and a basin of `second` match if they are in
    the same component when either must end. Betti matching instead pairs basins that end at the
    same saddle. The two agree where both fields end the same basin there; if two basins of
    nearly equal depth swap their order, only this method keeps each matched to its own
    location. A basin alone in its component can still find a partner at a higher level; one
    that ends without a partner is gone or new.

    Among minima whose depths are equal within the errors of the maps, the one nearest to the
    partner is chosen. If more than two basins meet at one point, the order of the edges
    separates the merges.

    Args:
        first: a landscape or an array.
        second: a second one of the same shape.
        connectivity: "full" or "axis".

    Returns:
        The matching of the minima, essential ones included. Symmetric.

    Raises:
        ArgumentError: the shapes differ.
        UnknownNameError: the connectivity is unknown.

    Examples:
        >>> first, second = [3.0, 0.0, 2.0, 1.0, 3.0], [3.0, 0.5, 3.0, 1.0, 5.0]
        >>> match_basins(first, second).pairs.tolist()
        [[1, 1], [0, 0]]

    Source: after Stucki, Paetzold, Shit, Menze, Bauer, ICML 2023, arXiv:2211.15272 (degree
    0), whose matching itself is in `betti_matching_loss`.
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    fields = [read_field(source) for source in (first, second)]
    if fields[0].values.shape != fields[1].values.shape:
        raise ArgumentError(
            "`first` and `second` must be landscapes on one grid; got shapes "
            f"{fields[0].values.shape} and {fields[1].values.shape}."
        )
    left, right = (merge_tree(source, connectivity=connectivity) for source in (first, second))
    a, b = (field.values.ravel() for field in fields)
    common = np.minimum(fields[0].values, fields[1].values)
    basins = grid_basins(common, common < np.inf, connectivity)
    numbers = [{int(m): k for k, m in enumerate(tree.minima)} for tree in (left, right)]
    pairs = [(numbers[0][p], numbers[1][q]) for p, q in _matching_points(a, b, basins)]
    # If errors are unknown, only equal depths count as the same.
    bounds = [np.nan_to_num(judge(f, 0.95, None).threshold) for f in fields]
    return BasinMatching(left, right, _nearest(left, right, pairs, basins.labels, bounds))


def _matching_points(first: Floats, second: Floats, basins: Basins) -> list[Pair]:
    # Points of the two fields that share a basin. Every component stores the lowest point of
    # either field that has no partner yet. Two extra indices mean "not reached yet" and
    # "reached, all partners found"; the first sorts above all points, the second below.
    levels = [np.append(field, [np.inf, -np.inf]) for field in (first, second)]
    count, size = basins.minima.size, first.size
    lowest = [
        earliest_points(field, basins.labels, count).tolist() for field in (first, second)
    ]
    waiting: list[Pair] = list(zip(*lowest, strict=True))
    merges = elder_rule(count, basins.first, basins.second)
    steps = zip(merges.ended, merges.into, basins.heights[merges.edge], strict=True)
    pairs = []
    for young, old, height in steps:
        closed, waiting[old] = _merge_components([waiting[young], waiting[old]], levels, height)
        pairs += closed
    lasting = np.setdiff1d(np.arange(count), merges.ended)
    return pairs + [waiting[n] for n in lasting if max(waiting[n]) < size]


def _merge_components(
    sides: list[Pair], levels: list[Floats], height: float
) -> tuple[list[Pair], Pair]:
    # Which pairs are final when the younger and the older component meet, and which stay open.
    size = levels[0].size - 2
    reached = [[s[k] < size and levels[k][s[k]] < height for k in (0, 1)] for s in sides]
    reached_twice = [reached[0][k] and reached[1][k] for k in (0, 1)]
    if all(reached_twice):
        return [sides[0]], sides[1]
    # Points at the level sort before points above it, and those before points not yet reached.
    ranks = [
        [(not reached[n][k], levels[k][sides[n][k]], sides[n][k], n) for n in (0, 1)]
        for k in (0, 1)
    ]
    elder = [min(rank)[-1] for rank in ranks]
    open_pair = sides[elder[0]][0], sides[elder[1]][1]
    if not any(reached_twice):
        return [], open_pair
    # One field has two basins and must end one; the other has at most one.
    k = reached_twice.index(True)
    younger = 1 - elder[k]
    if all(reached[younger]):
        done = size + 1
        return [sides[younger]], (open_pair[0], done) if k == 0 else (done, open_pair[1])
    return [], open_pair


def _nearest(
    first: MergeTree, second: MergeTree, pairs: list[Pair], labels: Ints, bounds: list[float]
) -> Ints:
    # Within a basin of the common landscape, minima of equal depth are ordered by distance.
    trees = (first, second)
    positions = [tree.coordinates(tree.minima) for tree in trees]
    free = [set(range(len(t))) - {pair[k] for pair in pairs} for k, t in enumerate(trees)]
    candidates = [_free_by_basin(t, f, labels) for t, f in zip(trees, free, strict=True)]
    out = []
    for pair in pairs:
        choice = [
            [n, *(m for m in candidates[k].get(int(labels[t.minima[n]]), ()) if m in free[k]
                  and t.minima_values[m] - t.minima_values[n] <= bounds[k])]
            for k, (n, t) in enumerate(zip(pair, trees, strict=True))
        ]  # fmt: skip
        best = min(
            itertools.product(*choice),
            key=lambda ij: (
                float(np.sum((positions[0][ij[0]] - positions[1][ij[1]]) ** 2)),
                sorted((int(first.minima[ij[0]]), int(second.minima[ij[1]]))),
            ),
        )
        for k in (0, 1):
            free[k].add(pair[k])
            free[k].remove(best[k])
        out.append(best)
    return np.array(out, dtype=np.int64).reshape(-1, 2)


def _free_by_basin(tree: MergeTree, free: set[int], labels: Ints) -> dict[int, list[int]]:
    by_basin: dict[int, list[int]] = {}
    for number in sorted(free):
        by_basin.setdefault(int(labels[tree.minima[number]]), []).append(number)
    return by_basin
