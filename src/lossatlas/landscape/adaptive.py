"""Adaptive maps: compute points until the others can be interpolated within a tolerance.

An interpolant through all computed points has an expected error at every other point, measured
by cross-validation over the computed points. Points are computed wherever it is too large. The
minima, the lowest and the highest point of the interpolant are computed too, until they no
longer change. The stated error of the result is the largest expected error times a factor,
chosen so that the true largest error is below it in at least 95 % of maps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.landscape.interpolant import ROUNDING, Surface, interpolate

Array = NDArray[np.float64]
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
    """A randomly shifted lattice rule, and some points on the boundary."""
    dimension = len(shape)
    edges = [_chebyshev(points, _ON_EDGES[dimension]) for points in shape]
    interior = [_rows_inside(n, rows) for n, rows in zip(shape, edges, strict=True)]
    mask = np.zeros(shape, dtype=bool)
    for node in product(*edges):
        mask[node] = any(i in (0, n - 1) for i, n in zip(node, shape, strict=True))
    if all(map(len, interior)):
        mask[tuple(_inside(interior, _count(shape, interior), seed).T)] = True
    return mask


def _rows_inside(points: int, edge: Rows) -> Rows:
    # Rows of large grids that have a point of the rim need no second one.
    interior = np.setdiff1d(np.arange(points), edge)
    return interior if len(interior) >= 2 * len(edge) else np.arange(1, points - 1)


def _count(shape: tuple[int, ...], interior: list[Rows]) -> int:
    if len(shape) == 1:
        # Not even one point may be left out where the next ones are too far apart.
        return _FEWEST[1] if _GAP * (shape[0] - 1) >= 2 else shape[0]
    stride = max(1, int(_STRIPE * (max(shape) - 1)))
    return max(_FEWEST[len(shape)], -(-max(map(len, interior)) // stride))


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
    positions = (1 - np.cos(np.linspace(0, np.pi, count))) / 2
    return np.unique(np.round((points - 1) * positions)).astype(np.intp)


# Expected errors are standard deviations at one point, the stated error is a bound on all.
# In 95 % of the maps of docs/studies/maps on which these were chosen, the true largest error
# is below the largest expected one times this (one to three directions); kinks need most.
FACTOR = {1: 5.0, 2: 2.0, 3: 2.0}
# The stated error may be at most this many times the tolerance, which is a root mean square:
# errors are largest where the loss is steepest.
WORST = 4.0
# Where more than this share had to be computed, interpolating the rest saves little; in a box
# it costs more than small models do.
_MOST = {1: 0.7, 2: 0.7, 3: 0.35}


@dataclass(frozen=True)
class Refined:
    """A map computed by refinement.

    Attributes:
        values: shape (*grid, columns).
        computed: which points were evaluated.
        error: bound on the largest error of column 0 at interpolated points, which holds for
            95 % of maps; 0 if every point was computed.
        rms: the expected root mean square of those errors.
        doubt: expected error at each point; 0 at evaluated points.
        held_out: number of computed points that were predicted from the others.
        rough: whether every point was computed although interpolation was tried.
    """

    values: Array
    computed: Mask
    error: float
    rms: float
    doubt: Array
    held_out: int
    rough: bool = False


class _Grid:
    """Points evaluated so far."""

    def __init__(
        self,
        evaluate: Callable[[NDArray[np.intp]], Array],
        shape: tuple[int, ...],
        columns: int,
    ) -> None:
        self._evaluate = evaluate
        self.values = np.full((*shape, columns), np.nan)
        self.computed = np.zeros(shape, dtype=bool)

    def compute(self, where: Mask) -> None:
        """Evaluate points, and all neighbors of non-finite points."""
        while (positions := np.argwhere(where & ~self.computed)).size:
            self.values[tuple(positions.T)] = self._evaluate(positions)
            self.computed[tuple(positions.T)] = True
            where = _around(self.computed & ~np.isfinite(self.losses))

    @property
    def losses(self) -> Array:
        return self.values[..., 0]

    @property
    def rounding(self) -> float:
        return _rounding(self.losses)


def refine(
    evaluate: Callable[[NDArray[np.intp]], Array],
    shape: tuple[int, ...],
    columns: int,
    tolerance: Callable[[Array], float],
    *,
    noise: Callable[[Array], Array] | None = None,
    seed: int = 0,
    first: Sequence[tuple[int, ...]] = (),
    exact: int = 0,
) -> Refined:
    """Fill a grid by refinement.

    Args:
        evaluate: returns the columns of some points, from indices of shape (points, dimension).
        shape: points along each direction.
        columns: numbers per point; errors are measured on column 0.
        tolerance: the root mean square error to reach, from all values computed so far, shape
            (points, columns); the stated largest error may be four times as much. Not a
            number: every point is computed.
        noise: an error that is good enough whatever the tolerance, for each point, from the
            interpolant, shape (*grid, columns - exact).
        seed: shifts the first points.
        first: further points to compute first.
        exact: number of trailing columns that are NaN at interpolated points.

    Returns:
        The map: non-finite regions, kinks and extremes are computed, the other points
        interpolated.
    """
    grid, rough = _Grid(evaluate, shape, columns), False
    start = first_points(shape, seed)
    for index in first:
        start[index] = True
    grid.compute(start)
    while grid.computed.mean() <= _MOST[len(shape)]:
        rough = True
        surface = interpolate(grid.computed, grid.values[..., : columns - exact])
        target = np.full(shape, max(tolerance(grid.values[grid.computed]), grid.rounding))
        if noise is not None:
            target = np.maximum(target, noise(surface.values))
        wanted = _wanted(surface.doubt, target, ~grid.computed)
        if not wanted.any():
            wanted = extremes(surface.values[..., 0], grid.computed)
            if not wanted.any():
                return _filled(grid, surface, exact)
            grid.compute(wanted)
        else:
            grid.compute(_next(surface.doubt, wanted, grid.computed))
    grid.compute(np.ones(shape, dtype=bool))
    return Refined(grid.values, grid.computed, 0.0, 0.0, np.zeros(shape), 0, rough)


def _wanted(doubt: Array, target: Array, unknown: Mask) -> Mask:
    # Where interpolation is too coarse; nowhere once both rules hold.
    ratio = np.divide(doubt, target, out=np.zeros_like(doubt), where=unknown & (doubt > 0))
    worst = FACTOR[doubt.ndim] * ratio > WORST
    if worst.any():
        return worst
    is_typical = np.sqrt(np.mean(ratio[unknown] ** 2)) <= 1
    return np.zeros_like(unknown) if is_typical else unknown & ~(ratio <= 1)


def _filled(grid: _Grid, surface: Surface, exact: int) -> Refined:
    doubt = surface.doubt[~grid.computed]
    error, rms = FACTOR[grid.computed.ndim] * float(doubt.max()), np.sqrt(np.mean(doubt**2))
    held_out = int(np.isfinite(grid.losses[grid.computed]).sum())
    grid.values[..., : grid.values.shape[-1] - exact] = surface.values
    error = max(error, grid.rounding)
    return Refined(grid.values, grid.computed, error, float(rms), surface.doubt, held_out)


def extremes(losses: Array, computed: Mask) -> Mask:
    """Interpolated points that look like minima or extremes of the map."""
    finite = np.isfinite(losses)
    if not (computed & finite).any():
        return np.zeros_like(computed)
    around = np.ones((3,) * losses.ndim, dtype=bool)
    around[(1,) * losses.ndim] = False
    low, high = np.where(finite, losses, np.inf), np.where(finite, losses, -np.inf)
    lowest_around = scipy.ndimage.minimum_filter(
        low, footprint=around, mode="constant", cval=np.inf
    )
    slack, known_losses = _rounding(losses), losses[computed & finite]
    is_extreme = low < lowest_around - slack
    is_extreme.flat[low.argmin()] |= low.min() < known_losses.min() - slack
    is_extreme.flat[high.argmax()] |= high.max() > known_losses.max() + slack
    return np.asarray(is_extreme & ~computed)


def _next(doubt: Array, wanted: Mask, computed: Mask) -> Mask:
    # The most doubtful first, and none beside another one in the same hole.
    reach = (scipy.ndimage.distance_transform_edt(~computed) / 1.5).astype(int)
    chosen, free = np.zeros_like(computed), ~computed
    left = max(16, int(np.count_nonzero(computed)) // 2)
    order = np.argsort(-doubt[wanted], kind="stable")
    for index in map(tuple, np.argwhere(wanted)[order]):
        if left and free[index]:
            chosen[index], free[_box(index, int(reach[index]))] = True, False
            left -= 1
    return chosen


def _box(index: tuple[np.intp, ...], reach: int) -> tuple[slice, ...]:
    return tuple(slice(max(0, int(i) - reach), int(i) + reach + 1) for i in index)


def _rounding(losses: Array) -> float:
    # A flat map has no range to take a share of; rounding is not roughness.
    finite = losses[np.isfinite(losses)]
    return ROUNDING * float(np.abs(finite).max(initial=0.0))


def _around(where: Mask) -> Mask:
    box = np.ones((3,) * where.ndim, dtype=bool)
    return np.asarray(scipy.ndimage.binary_dilation(where, box))
