"""Betti matching: which basin of one landscape is which basin of another on one grid."""

import itertools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.certainty import judge
from lossatlas.topology.field import CONNECTIVITIES, Floats, Ints, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.image_persistence import earliest_points
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.pairing import elder_rule

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class BasinMatching:
    """Basins of two landscapes on one grid, matched by where they are.

    Attributes:
        first: merge tree of the first landscape.
        second: merge tree of the second.
        pairs: (pairs, 2) numbers of minima of `first` and `second` that are one basin. A
            minimum without a partner does not appear: its basin is new or gone.
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


def match_basins(first: Source, second: Source, *, connectivity: str = "full") -> BasinMatching:
    """Match the basins of two landscapes through the landscape of their lower values.

    The sublevel sets of both lie in those of the pointwise minimum. Flood that common
    landscape: a basin of `first` and one of `second` that stand in one component when
    either must end are one basin. Betti matching pairs what ends at one saddle; where both
    fields agree which basin ends there the two say the same, and where two basins of nearly
    equal depth change their order only this one leaves each in its place. What stands alone
    in its component waits for a partner that the water brings; what has none when it ends is
    gone or new.

    Minima that are equal, or as deep as the errors of the maps can tell, are taken nearest
    to the partner. Where more than two basins meet at one point, its merges are told apart
    by the order of the edges.

    Args:
        first: a landscape or an array.
        second: another of the same shape.
        connectivity: "full" or "axis".

    Returns:
        The matching of the minima, essential ones included. Symmetric.

    Raises:
        ArgumentError: the shapes differ.
        UnknownNameError: an unknown connectivity.

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
    one, two = (merge_tree(source, connectivity=connectivity) for source in (first, second))
    a, b = (field.values.ravel() for field in fields)
    common = np.minimum(fields[0].values, fields[1].values)
    basins = grid_basins(common, common < np.inf, connectivity)
    numbers = [{int(m): k for k, m in enumerate(tree.minima)} for tree in (one, two)]
    pairs = [(numbers[0][p], numbers[1][q]) for p, q in _standing_together(a, b, basins)]
    # Where errors are unknown only equal depths are taken for one.
    bounds = [np.nan_to_num(judge(f, 0.95, None).threshold) for f in fields]
    return BasinMatching(one, two, _nearest(one, two, pairs, basins.labels, bounds))


def _standing_together(first: Floats, second: Floats, basins: Basins) -> list[Pair]:
    # Points of the two fields that are one basin. Every component holds the lowest point of
    # either field that has no partner yet. Two more numbers stand for "not reached yet" and
    # "reached, and all partners found"; the first sorts above all points, the second below.
    levels = [np.append(field, [np.inf, -np.inf]) for field in (first, second)]
    count, size = basins.minima.size, first.size
    lowest = [
        earliest_points(field, basins.labels, count).tolist() for field in (first, second)
    ]
    held: list[Pair] = list(zip(*lowest, strict=True))
    merges = elder_rule(count, basins.first, basins.second)
    steps = zip(merges.ended, merges.into, basins.heights[merges.edge], strict=True)
    found = []
    for young, old, height in steps:
        closed, held[old] = _meet([held[young], held[old]], levels, height)
        found += closed
    lasting = np.setdiff1d(np.arange(count), merges.ended)
    return found + [held[n] for n in lasting if max(held[n]) < size]


def _meet(sides: list[Pair], levels: list[Floats], height: float) -> tuple[list[Pair], Pair]:
    # What is closed when the younger and the older component meet, and what stays open.
    size = levels[0].size - 2
    reached = [[s[k] < size and levels[k][s[k]] < height for k in (0, 1)] for s in sides]
    both = [reached[0][k] and reached[1][k] for k in (0, 1)]
    if all(both):
        return [sides[0]], sides[1]
    # A point with the water goes before one above it, and those before one still dry.
    ranks = [
        [(not reached[n][k], levels[k][sides[n][k]], sides[n][k], n) for n in (0, 1)]
        for k in (0, 1)
    ]
    elder = [min(rank)[-1] for rank in ranks]
    kept = sides[elder[0]][0], sides[elder[1]][1]
    if not any(both):
        return [], kept
    # One field has two basins here and must close one; the other has one at most.
    k = both.index(True)
    younger = 1 - elder[k]
    if all(reached[younger]):
        return [sides[younger]], (kept[0], size + 1) if k == 0 else (size + 1, kept[1])
    return [], kept


def _nearest(
    one: MergeTree, two: MergeTree, pairs: list[Pair], labels: Ints, bounds: list[float]
) -> Ints:
    # Within a basin of the common landscape, minima of one depth are told apart by place.
    trees = (one, two)
    spots = [tree.coordinates(tree.minima) for tree in trees]
    free = [set(range(len(t))) - {pair[k] for pair in pairs} for k, t in enumerate(trees)]
    twins = [_free_by_basin(t, f, labels) for t, f in zip(trees, free, strict=True)]
    out = []
    for pair in pairs:
        choice = [
            [n, *(m for m in twins[k].get(int(labels[t.minima[n]]), ()) if m in free[k]
                  and t.minima_values[m] - t.minima_values[n] <= bounds[k])]
            for k, (n, t) in enumerate(zip(pair, trees, strict=True))
        ]  # fmt: skip
        best = min(
            itertools.product(*choice),
            key=lambda ij: (
                float(np.sum((spots[0][ij[0]] - spots[1][ij[1]]) ** 2)),
                sorted((int(one.minima[ij[0]]), int(two.minima[ij[1]]))),
            ),
        )
        for k in (0, 1):
            free[k].add(pair[k])
            free[k].remove(best[k])
        out.append(best)
    return np.array(out, dtype=np.int64).reshape(-1, 2)


def _free_by_basin(tree: MergeTree, free: set[int], labels: Ints) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number in sorted(free):
        found.setdefault(int(labels[tree.minima[number]]), []).append(number)
    return found
