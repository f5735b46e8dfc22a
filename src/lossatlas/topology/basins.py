"""Basins: every point of a grid or graph, sent down to the minimum below it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from lossatlas.topology.field import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Basins:
    """A filtered graph reduced to its minima and the saddles between their basins.

    Nothing of degree 0 is lost: every point reaches the minimum of its basin through points
    no higher than itself, so the components of every sublevel set are those of the graph
    whose nodes are the minima and whose edges are the saddles.

    Attributes:
        labels: basin of each point, flat, -1 where it is not finite; 0 has the lowest minimum.
        minima: flat index of each minimum, lowest first; equal values by index.
        first, second: the two basins of each saddle, lowest saddle first.
        ends: (saddles, 2) flat indices of the edge where the two basins touch; the second
            end is the higher one.
        heights: value at which each pass opens, ascending.
        numbers: of a graph, the number of the edge of each pass; empty for a grid.
    """

    labels: Ints
    minima: Ints
    first: Ints
    second: Ints
    ends: Ints
    heights: Floats
    numbers: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def grid_basins(
    values: Floats, finite: Bools, connectivity: str, periodic: tuple[bool, ...] = ()
) -> Basins:
    """Reduce a grid."""
    flat = values.ravel()
    order = value_order(flat)
    rank = np.empty(flat.size, dtype=np.int64)
    rank[order] = np.arange(flat.size)
    grid = rank.reshape(values.shape)
    wraps = periodic or (False,) * values.ndim
    lowest = np.where(finite, _lowest_neighbor(grid, connectivity, wraps), grid)
    labels, minima = descend(order[lowest.ravel()], order, finite.ravel())
    u, v = _saddle_edges(labels.reshape(values.shape), connectivity, wraps)
    low = np.where(rank[u] > rank[v], v, u)
    high = u + v - low
    order = lowest_saddles(minima.size, labels[low], labels[high], rank[high])
    low, high = low[order], high[order]
    ends = np.stack([low, high], axis=1)
    found = Basins(labels, minima, labels[low], labels[high], ends, flat[high])
    return merge_plateaus(found, flat[minima])


def merge_plateaus(basins: Basins, births: Floats) -> Basins:
    """Join basins that touch at the level of the shallower minimum."""
    younger = np.maximum(basins.first, basins.second)
    ties = np.flatnonzero(basins.heights == births[younger])
    if ties.size == 0:
        return basins
    root = _joined_at_birth(basins, births, ties)
    kept = np.flatnonzero(root == np.arange(root.size))
    number = np.searchsorted(kept, root)
    first, second = number[basins.first], number[basins.second]
    saddles = np.flatnonzero(first != second)
    return replace(
        basins,
        labels=np.where(basins.labels >= 0, number[basins.labels], -1),
        minima=basins.minima[kept],
        first=first[saddles],
        second=second[saddles],
        ends=basins.ends[saddles],
        heights=basins.heights[saddles],
        numbers=basins.numbers[saddles] if basins.numbers.size else basins.numbers,
    )


def _joined_at_birth(basins: Basins, births: Floats, ties: Ints) -> Ints:
    # The deepest basin that each one joins without a climb. A basin that touches two deeper
    # ones at its own level joins the first of them only: the two are parted there.
    parent, level = list(range(births.size)), births.tolist()
    columns = (basins.first[ties], basins.second[ties], basins.heights[ties])
    for *pair, height in zip(*(column.tolist() for column in columns), strict=True):
        ends = []
        for node in pair:
            here = node
            while parent[here] != here:
                parent[here] = here = parent[parent[here]]
            ends.append(here)
        older, younger = min(ends), max(ends)
        if older != younger and level[younger] == height:
            parent[younger] = older
    root = np.array(parent, dtype=np.int64)
    while not np.array_equal(root, jumped := root[root]):
        root = jumped
    return root


def value_order(values: Floats) -> Ints:
    """Indices from the lowest value up, equal ones by index."""
    order = np.argsort(values)
    ascending = values[order]
    # The fast sort is not stable; it does where all finite values differ.
    if ((ascending[1:] == ascending[:-1]) & (ascending[1:] < np.inf)).any():
        order = np.argsort(values, kind="stable")
    return order


def lowest_saddles(count: int, first: Ints, second: Ints, opening: Ints) -> Ints:
    """Put saddles in the order in which they open, and leave out what cannot matter."""
    # Keys made distinct may be sorted by the fast, unstable way.
    keys = opening * opening.size + np.arange(opening.size)
    if count * count > 4 * keys.size:
        return np.asarray(np.argsort(keys))
    lowest = np.full(count * count, np.iinfo(np.int64).max)
    np.minimum.at(lowest, np.minimum(first, second) * count + np.maximum(first, second), keys)
    found = np.sort(lowest[lowest < np.iinfo(np.int64).max])
    return np.asarray(found % keys.size)


def _lowest_neighbor(rank: Ints, connectivity: str, wraps: tuple[bool, ...]) -> Ints:
    lowest = rank.copy()
    for axis, circle in enumerate(wraps):
        # The full neighborhood is a product of intervals: minima of minima, axis by axis.
        source = np.moveaxis(lowest.copy() if connectivity == "full" else rank, axis, 0)
        target = np.moveaxis(lowest, axis, 0)
        np.minimum(target[:-1], source[1:], out=target[:-1])
        np.minimum(target[1:], source[:-1], out=target[1:])
        if circle:
            np.minimum(target[:1], source[-1:], out=target[:1])
            np.minimum(target[-1:], source[:1], out=target[-1:])
    return lowest


def descend(parent: Ints, order: Ints, finite: Bools) -> tuple[Ints, Ints]:
    """Follow every point down to its minimum."""
    roots = (parent == np.arange(parent.size)) & finite
    while not np.array_equal(parent, jumped := parent[parent]):
        parent = jumped
    minima = order[roots[order]]
    number = np.full(parent.size, -1, dtype=np.int64)
    number[minima] = np.arange(minima.size)
    return number[parent], minima


def _saddle_edges(
    labels: Ints, connectivity: str, wraps: tuple[bool, ...]
) -> tuple[Ints, Ints]:
    # Ends of every grid edge that joins two different basins. An axis whose ends touch is
    # read one point further on both sides; edges that this repeats do no harm.
    index = np.arange(labels.size).reshape(labels.shape)
    if any(wraps):
        width = [(int(circle), int(circle)) for circle in wraps]
        index = np.pad(index, width, mode="wrap")
        labels = labels.ravel()[index]
    found = []
    for here, there in edge_slices(labels.ndim, connectivity):
        a, b = labels[here], labels[there]
        crossing = (a != b) & (a >= 0) & (b >= 0)
        found.append((index[here][crossing], index[there][crossing]))
    u, v = zip(*found, strict=True)
    return np.concatenate(u), np.concatenate(v)


def edge_slices(
    ndim: int, connectivity: str
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """The edges of a grid as pairs of slices; zipped, their points are all edges once."""
    here = {0: slice(None), 1: slice(None, -1), -1: slice(1, None)}
    there = {0: slice(None), 1: slice(1, None), -1: slice(None, -1)}
    for offset in product((0, 1, -1), repeat=ndim):
        steps = [step for step in offset if step]
        if not steps or steps[0] < 0 or (connectivity == "axis" and len(steps) > 1):
            continue
        yield tuple(here[step] for step in offset), tuple(there[step] for step in offset)
