"""Basins of a grid by ranking all of its points first: slow and obvious."""

import numpy as np

from lossatlas.topology.basins import (
    Basins,
    descend,
    edge_slices,
    merge_plateaus,
    value_order,
)


def sorted_basins(values, finite, connectivity, periodic=()):
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
    order = np.lexsort((np.arange(high.size), rank[high]))
    low, high = low[order], high[order]
    ends = np.stack([low, high], axis=1)
    found = Basins(labels, minima, labels[low], labels[high], ends, flat[high])
    return merge_plateaus(found, flat[minima])


def _lowest_neighbor(rank, connectivity, wraps):
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


def _saddle_edges(labels, connectivity, wraps):
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
