"""The first points of a map: few, spread evenly, and in every row and column."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]
# Points inside, at least, and points along each edge, for one to three directions. A line has
# no other direction in which a stripe could be met, so it takes nearly as many as a plane.
_FEWEST = {1: 52, 2: 35, 3: 125}
_ON_EDGES = {1: 2, 2: 7, 3: 5}
# A stripe this wide, as a share of the range, is met wherever it lies.
_STRIPE = 0.02
# The widest gap on a line, as a share of its range.
_GAP = 0.03


def first_points(shape: tuple[int, ...], seed: int) -> Mask:
    """A lattice rule, shifted at random, and some points on the rim."""
    dimension = len(shape)
    edges = [_chebyshev(points, _ON_EDGES[dimension]) for points in shape]
    others = [_rows_inside(n, rows) for n, rows in zip(shape, edges, strict=True)]
    mask = np.zeros(shape, dtype=bool)
    for node in product(*edges):
        mask[node] = any(i in (0, n - 1) for i, n in zip(node, shape, strict=True))
    if all(map(len, others)):
        mask[tuple(_inside(others, _count(shape, others), seed).T)] = True
    return mask


def _rows_inside(points: int, edge: Rows) -> Rows:
    # Rows of large grids that have a point of the rim need no second one.
    others = np.setdiff1d(np.arange(points), edge)
    return others if len(others) >= 2 * len(edge) else np.arange(1, points - 1)


def _count(shape: tuple[int, ...], others: list[Rows]) -> int:
    if len(shape) == 1:
        # Not even one point may be left out where the next ones are too far apart.
        return _FEWEST[1] if _GAP * (shape[0] - 1) >= 2 else shape[0]
    stride = max(1, int(_STRIPE * (max(shape) - 1)))
    return max(_FEWEST[len(shape)], -(-max(map(len, others)) // stride))


def _inside(rows: list[Rows], count: int, seed: int) -> Rows:
    shift = np.random.default_rng(seed).random(len(rows))
    unit = (_lattice(count, len(rows)) + shift) % 1
    columns = [r[(u * len(r)).astype(np.intp)] for r, u in zip(rows, unit.T, strict=True)]
    return np.stack(columns, axis=1)


def _lattice(count: int, dimension: int) -> NDArray[np.float64]:
    # Korobov's rule: multiples of (1, g, g^2) / count, by the g that keeps them furthest apart.
    steps = np.arange(count)

    def points(g: int) -> NDArray[np.float64]:
        return np.outer(steps, [pow(g, k, count) for k in range(dimension)]) % count / count

    def separation(g: int) -> float:
        offsets = points(g)[1:]
        return float((np.minimum(offsets, 1 - offsets) ** 2).sum(axis=1).min())

    coprime = [g for g in range(1, max(2, count // 2)) if np.gcd(g, count) == 1]
    return points(max(coprime, key=separation))


def _chebyshev(points: int, count: int) -> Rows:
    # Closer together towards the corners, where errors of interpolation are largest.
    places = (1 - np.cos(np.linspace(0, np.pi, count))) / 2
    return np.unique(np.round((points - 1) * places)).astype(np.intp)
