"""Image persistence: where the components of a field end within a field below it."""

import numpy as np

from lossatlas.topology.basins import grid_basins
from lossatlas.topology.field import Bools, Floats, Ints
from lossatlas.topology.pairing import elder_rule


def image_persistence(
    upper: Floats, lower: Floats, finite: Bools, connectivity: str
) -> dict[tuple[int, int], int]:
    """Where the components of one field end within another that lies below it."""
    basins = grid_basins(lower, finite, connectivity)
    count, flat = basins.minima.size, upper.ravel()
    earliest = earliest_points(flat, basins.labels, count)
    born = np.append(flat, np.inf)[earliest]
    age = np.empty(count, dtype=np.int64)
    age[np.lexsort((earliest, born))] = np.arange(count)
    pairs = elder_rule(count, age[basins.first], age[basins.second])
    node = np.argsort(age)
    ended, into = node[pairs.ended], node[pairs.into]
    images = {
        (0, int(edge)): int(earliest[n])
        for edge, n in zip(pairs.edge, ended, strict=True)
        if born[n] < basins.heights[edge]
    }
    part = _parts(count, ended, into)
    lasting = np.setdiff1d(np.arange(count), ended)
    return images | {(1, int(part[n])): int(earliest[n]) for n in lasting if born[n] < np.inf}


def earliest_points(values: Floats, labels: Ints, count: int) -> Ints:
    """Lowest point of a field in every basin of another."""
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
    lowest = np.full(count, count, dtype=np.int64)
    np.minimum.at(lowest, root, np.arange(count))
    return lowest[root]
