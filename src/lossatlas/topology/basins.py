"""Basins: every point of a grid or graph is assigned to the minimum below it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from lossatlas.topology.field import Bools, Floats, Ints

_INT32 = np.iinfo(np.int32).max
# Rows of a table, and those of their neighbors.
_NEIGHBORS = (
    (slice(None, -1), slice(1, None)),
    (slice(1, None), slice(None, -1)),
)
_ENDS = ((slice(0, 1), slice(-1, None)), (slice(-1, None), slice(0, 1)))


@dataclass(frozen=True, eq=False)
class Basins:
    """A filtered graph reduced to its minima and the saddles between their basins.

    Degree 0 is preserved exactly: every point reaches the minimum of its basin through points
    no higher than itself, so the components of every sublevel set are those of the graph whose
    nodes are the minima and whose edges are the saddles.

    Attributes:
        labels: basin of each point, flat, -1 where not finite; basin 0 has the lowest minimum.
        minima: flat index of each minimum, lowest first; equal values by index.
        first, second: the two basins of each saddle, lowest saddle first.
        ends: (saddles, 2) flat indices of the edge where the two basins touch; the second
            end is the higher one.
        heights: height of each saddle, ascending.
        numbers: edge number of each saddle of a graph; empty for a grid.
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
    """Reduce a grid; only minima and points where basins meet are sorted."""
    flat = values.ravel()
    wraps = periodic or (False,) * values.ndim
    # 32-bit indices halve memory and time.
    kind = np.dtype(np.int32 if flat.size < _INT32 else np.int64)
    lowest = _lowest_neighbor(values, kind, connectivity, wraps).ravel()
    index = np.arange(flat.size, dtype=kind)
    finite = finite.ravel()
    parent = lowest if finite.all() else np.where(finite, lowest, index)
    minima = np.flatnonzero((parent == index) & finite)
    # Ascending already: a stable sort leaves equal values in the order of their indices.
    minima = minima[np.argsort(flat[minima], kind="stable")]
    parent = _followed(parent)
    number = index
    number.fill(-1)
    number[minima] = np.arange(minima.size, dtype=kind)
    labels = number[parent]
    del parent, lowest
    low, high = _saddle_edges(labels.reshape(values.shape), values, connectivity, wraps)
    opening = _ranks(flat, high, scratch=number)
    order = lowest_saddles(minima.size, labels, low, high, opening)
    del opening
    low, high = (part[order].astype(np.int64) for part in (low, high))
    labels = labels.astype(np.int64)
    ends = np.stack([low, high], axis=1)
    basins = Basins(labels, minima, labels[low], labels[high], ends, flat[high])
    return merge_plateaus(basins, flat[minima])


def _followed(parent: Ints) -> Ints:
    while not np.array_equal(parent, jumped := parent[parent]):
        parent = jumped
    return parent


def _ranks(flat: Floats, points: Ints, scratch: Ints) -> Ints:
    # Rank of each point by value, ties by index.
    met = np.zeros(flat.size, dtype=np.bool_)
    met[points] = True
    distinct = np.flatnonzero(met)
    order = value_order(flat[distinct])
    scratch[distinct[order]] = np.arange(distinct.size, dtype=scratch.dtype)
    return scratch[points]


def merge_plateaus(basins: Basins, births: Floats) -> Basins:
    """Join basins that touch at the level of the shallower minimum."""
    younger = np.maximum(basins.first, basins.second)
    ties = np.flatnonzero(basins.heights == births[younger])
    if ties.size == 0:
        return basins
    root = _joined_at_birth(basins, births, ties)
    roots = np.flatnonzero(root == np.arange(root.size))
    number = np.searchsorted(roots, root)
    first, second = number[basins.first], number[basins.second]
    saddles = np.flatnonzero(first != second)
    return replace(
        basins,
        labels=np.where(basins.labels >= 0, number[basins.labels], -1),
        minima=basins.minima[roots],
        first=first[saddles],
        second=second[saddles],
        ends=basins.ends[saddles],
        heights=basins.heights[saddles],
        numbers=basins.numbers[saddles] if basins.numbers.size else basins.numbers,
    )


def _joined_at_birth(basins: Basins, births: Floats, ties: Ints) -> Ints:
    # The deepest basin that each one joins without climbing. A basin that touches two deeper
    # ones at its own level joins only the first: the other two stay separate there.
    parent, level = list(range(births.size)), births.tolist()
    columns = (basins.first[ties], basins.second[ties], basins.heights[ties])
    for *pair, height in zip(*(column.tolist() for column in columns), strict=True):
        ends = []
        for node in pair:
            node_root = node
            while parent[node_root] != node_root:
                parent[node_root] = node_root = parent[parent[node_root]]
            ends.append(node_root)
        older, younger = min(ends), max(ends)
        if older != younger and level[younger] == height:
            parent[younger] = older
    root = np.array(parent, dtype=np.int64)
    while not np.array_equal(root, jumped := root[root]):
        root = jumped
    return root


def value_order(values: Floats) -> Ints:
    """Indices in ascending order of value, ties by index."""
    order = np.argsort(values)
    ascending = values[order]
    # The fast sort is not stable, which matters only when finite values are equal.
    if ((ascending[1:] == ascending[:-1]) & (ascending[1:] < np.inf)).any():
        order = np.argsort(values, kind="stable")
    return order


def lowest_saddles(count: int, labels: Ints, low: Ints, high: Ints, opening: Ints) -> Ints:
    """Sort saddles by height and drop those that cannot affect the merge tree."""
    # Distinct keys allow the fast, unstable sort.
    size = opening.size
    keys = opening.astype(np.int64)
    keys *= size
    keys += np.arange(size)
    if count * count > 4 * size:
        keys.sort()
        order = np.asarray(np.remainder(keys, size, out=keys))
        return _first_of_pairs(count, labels, low, high, order)
    lowest = np.full(count * count, np.iinfo(np.int64).max)
    first, second = labels[low], labels[high]
    pairs = np.minimum(first, second).astype(np.int64) * count + np.maximum(first, second)
    np.minimum.at(lowest, pairs, keys)
    saddles = np.sort(lowest[lowest < np.iinfo(np.int64).max])
    return np.asarray(saddles % size)


def _first_of_pairs(count: int, labels: Ints, low: Ints, high: Ints, order: Ints) -> Ints:
    # The lowest saddle between each pair of basins.
    size = order.size
    if size == 0 or count * count * size > np.iinfo(np.int64).max:
        return order
    first, second = labels[low], labels[high]
    keys = np.minimum(first, second).astype(np.int64)
    keys *= count
    keys += np.maximum(first, second, out=second)
    del first, second
    keys = keys[order]
    keys *= size
    keys += np.arange(size)
    keys.sort()
    pairs = keys // size
    new = np.concatenate([[True], pairs[1:] != pairs[:-1]])
    del pairs
    return np.asarray(order[np.sort(keys[new] % size)])


def _lowest_neighbor(
    values: Floats, kind: np.dtype[Any], connectivity: str, wraps: tuple[bool, ...]
) -> Ints:
    # Index of the lowest point in each point's neighborhood; ties by index.
    index = np.arange(values.size, dtype=kind).reshape(values.shape)
    lowest, at = values.copy(), index.copy()
    for axis, circle in enumerate(wraps):
        # The full neighborhood is a product of intervals: minima of minima, axis by axis.
        full = connectivity == "full" and axis > 0
        source, of = (lowest.copy(), at.copy()) if full else (values, index)
        lows, ats = np.moveaxis(lowest, axis, 0), np.moveaxis(at, axis, 0)
        neighbors, indices = np.moveaxis(source, axis, 0), np.moveaxis(of, axis, 0)
        for target, source_slice in _NEIGHBORS + (_ENDS if circle else ()):
            _take_lower(
                lows[target], ats[target], neighbors[source_slice], indices[source_slice]
            )
    return at


def _take_lower(lowest: Floats, at: Ints, values: Floats, index: Ints) -> None:
    lower = values < lowest
    equal = values == lowest
    if equal.any():
        lower |= equal & (index < at)
    np.copyto(lowest, values, where=lower)
    np.copyto(at, index, where=lower)


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
    labels: Ints, values: Floats, connectivity: str, wraps: tuple[bool, ...]
) -> tuple[Ints, Ints]:
    # Lower and higher end of every grid edge between two basins. A periodic axis is padded by
    # one point on both sides; the edges this repeats are harmless.
    flat = values.ravel()
    index = np.arange(labels.size, dtype=labels.dtype).reshape(labels.shape)
    if any(wraps):
        width = [(int(circle), int(circle)) for circle in wraps]
        index = np.pad(index, width, mode="wrap")
        labels = labels.ravel()[index]
    everywhere = bool((labels >= 0).all())
    empty = np.empty(0, dtype=index.dtype)
    lows, highs = [empty], [empty]
    for start, end in edge_slices(labels.ndim, connectivity):
        a, b = labels[start], labels[end]
        crossing = a != b
        if not everywhere:
            crossing &= (a >= 0) & (b >= 0)
        u, v = index[start][crossing], index[end][crossing]
        below, above = flat[u], flat[v]
        turned = (below > above) | ((below == above) & (u > v))
        lows.append(np.where(turned, v, u))
        highs.append(np.where(turned, u, v))
    return np.concatenate(lows), np.concatenate(highs)


def edge_slices(
    ndim: int, connectivity: str
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of slices whose zipped points enumerate every edge of a grid once."""
    starts = {0: slice(None), 1: slice(None, -1), -1: slice(1, None)}
    ends = {0: slice(None), 1: slice(1, None), -1: slice(None, -1)}
    for offset in product((0, 1, -1), repeat=ndim):
        steps = [step for step in offset if step]
        if not steps or steps[0] < 0 or (connectivity == "axis" and len(steps) > 1):
            continue
        yield tuple(starts[step] for step in offset), tuple(ends[step] for step in offset)
