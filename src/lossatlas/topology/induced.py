"""Betti matching: which basin of one landscape is which basin of another on one grid."""

from dataclasses import dataclass

import numpy as np

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.topology.basins import grid_basins
from lossatlas.topology.field import CONNECTIVITIES, Bools, Floats, Ints, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.pairing import elder_rule


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

    The sublevel sets of both lie in those of the pointwise minimum. A basin of `first` and
    one of `second` are matched when, in that common landscape, they end at the same saddle.
    A matching of barcodes only compares lengths; this one also knows the place. Where more
    than two basins meet at one point, its merges are told apart by the order of the edges.

    Args:
        first: a landscape or an array.
        second: another of the same shape.
        connectivity: "full" or "axis".

    Returns:
        The matching of the minima, essential ones included.

    Raises:
        ArgumentError: the shapes differ.
        UnknownNameError: an unknown connectivity.

    Source: Stucki, Paetzold, Shit, Menze, Bauer, ICML 2023, arXiv:2211.15272 (degree 0).
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    fields = [read_field(source) for source in (first, second)]
    if fields[0].values.shape != fields[1].values.shape:
        raise ArgumentError(
            "`first` and `second` must be landscapes on one grid; got shapes "
            f"{fields[0].values.shape} and {fields[1].values.shape}."
        )
    common = np.minimum(fields[0].values, fields[1].values)
    ends = [images(field.values, common, common < np.inf, connectivity) for field in fields]
    one, two = (merge_tree(source, connectivity=connectivity) for source in (first, second))
    shared = sorted(ends[0].keys() & ends[1].keys())
    numbers = [{int(m): k for k, m in enumerate(tree.minima)} for tree in (one, two)]
    pairs = [[n[e[key]] for n, e in zip(numbers, ends, strict=True)] for key in shared]
    return BasinMatching(one, two, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def images(
    upper: Floats, lower: Floats, finite: Bools, connectivity: str
) -> dict[tuple[int, int], int]:
    """Where the components of one field end inside another that lies below it.

    Image persistence of degree 0: components are those of `lower`, their age is that of
    their earliest point in `upper`.

    Args:
        upper: a field.
        lower: a field nowhere above it.
        finite: False at the walls of `lower`.
        connectivity: "full" or "axis".

    Returns:
        The end of a bar of `lower` -> the minimum of `upper` (flat index) whose image ends
        there. An end is (0, the flat number of the merge) or, for what never ends,
        (1, the part of the grid). Images of length 0 are left out.
    """
    basins = grid_basins(lower, finite, connectivity)
    count, flat = basins.minima.size, upper.ravel()
    earliest = _earliest_points(flat, basins.labels, count)
    born = np.append(flat, np.inf)[earliest]
    age = np.empty(count, dtype=np.int64)
    age[np.lexsort((earliest, born))] = np.arange(count)
    pairs = elder_rule(count, age[basins.first], age[basins.second])
    node = np.argsort(age)
    ended, into = node[pairs.ended], node[pairs.into]
    found = {
        (0, int(edge)): int(earliest[n])
        for edge, n in zip(pairs.edge, ended, strict=True)
        if born[n] < basins.heights[edge]
    }
    part = _parts(count, ended, into)
    lasting = np.setdiff1d(np.arange(count), ended)
    return found | {(1, int(part[n])): int(earliest[n]) for n in lasting if born[n] < np.inf}


def _earliest_points(values: Floats, labels: Ints, count: int) -> Ints:
    # Flat index of the lowest point of `values` in each basin; its size where there is none.
    order = np.argsort(values, kind="stable")
    order = order[(labels[order] >= 0) & (values[order] < np.inf)]
    earliest = np.full(count, values.size, dtype=np.int64)
    earliest[labels[order[::-1]]] = order[::-1]
    return earliest


def _parts(count: int, ended: Ints, into: Ints) -> Ints:
    # The lowest node number of the connected part of each node.
    root = np.arange(count)
    for young, old in zip(ended[::-1], into[::-1], strict=True):
        root[young] = root[old]
    least = np.full(count, count, dtype=np.int64)
    np.minimum.at(least, root, np.arange(count))
    return least[root]
