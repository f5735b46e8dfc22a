"""Tensor-product cubic splines through some rows and columns of a grid."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator, make_interp_spline
from scipy.ndimage import distance_transform_edt

Array = NDArray[np.float64]
Knots = Sequence[NDArray[np.intp]]
# Fewer points along a direction do not fix its quadratic part.
_FEWEST = 6
# Beyond these the dense system of a radial function costs more than it saves.
_MOST_CENTRES, _MOST_WORK = 1500, 20_000_000


def levels(points: int) -> list[NDArray[np.intp]]:
    """Nested sets of grid indices along one direction: about 6, 11, 21, 41, ... of them.

    Args:
        points: how many there are in the end.

    Returns:
        Ascending index arrays, each within the next; the last one holds all.
    """
    last = points - 1
    rows = np.unique(np.round(np.linspace(0, last, min(points, 6))).astype(np.intp))
    found = [rows]
    while len(rows) < points:
        rows = np.union1d(rows, (rows[:-1] + rows[1:]) // 2)
        found.append(rows)
    return found


def interpolate(values: Array, knots: Knots, shape: Sequence[int], degree: int = 3) -> Array:
    """The spline through values at some rows and columns, on the whole grid.

    Args:
        values: shape (knots of direction 1, ..., columns); every column has its own spline.
            Values that are not finite are replaced by their nearest finite neighbour first.
        knots: ascending indices along each direction, the first and the last among them.
        shape: points of the whole grid along each direction.
        degree: 3, or 1 for straight lines; fewer where there are too few knots.

    Returns:
        Shape (*shape, columns).
    """
    whole = _filled(values)
    for axis, (rows, points) in enumerate(zip(knots, shape, strict=True)):
        matrix = _matrix(rows, points, min(degree, len(rows) - 1))
        whole = np.moveaxis(np.tensordot(matrix, whole, axes=(1, axis)), 0, axis)
    return whole


def corrected(whole: Array, known: NDArray[np.bool_], values: Array) -> Array:
    """Bend an interpolant smoothly so that it passes through further known points.

    Args:
        whole: shape (*grid, columns).
        known: where values are known, shape (*grid,).
        values: shape (*grid, columns); only known and finite ones are read.

    Returns:
        Like `whole`, equal to `values` where known.
    """
    usable = known & np.isfinite(values).all(-1)
    residual = (values - whole)[usable]
    places = np.argwhere(usable).astype(float)
    missing = ~known
    result = np.where(known[..., None], values, whole)
    if missing.any() and len(places) > whole.ndim and np.any(residual):
        near = None if len(places) <= 600 else 64
        bend = RBFInterpolator(places, residual, neighbors=near, kernel="thin_plate_spline")
        result[missing] += bend(np.argwhere(missing).astype(float))
    return result


def smooth(known: NDArray[np.bool_], values: Array) -> Array | None:
    """The quintic radial function through all known points.

    On smooth ground it errs less than splines do, because it uses every point, however
    scattered; at kinks it swings.

    Args:
        known: where values are known, shape (*grid,).
        values: shape (*grid, columns); only known ones are read.

    Returns:
        Shape (*grid, columns), equal to `values` where known; None where there are too few or
        too many points for it, or one of them is not finite.
    """
    data = values[known]
    work = known.size * len(data)
    if min(known.shape) < _FEWEST or len(data) > _MOST_CENTRES or work > _MOST_WORK:
        return None
    if not np.isfinite(data).all():
        return None
    fit = RBFInterpolator(np.argwhere(known).astype(float), data, kernel="quintic", degree=2)
    whole = values.copy()
    whole[~known] = fit(np.argwhere(~known).astype(float))
    return whole


def _matrix(rows: NDArray[np.intp], points: int, degree: int) -> Array:
    if degree == 0:
        return np.ones((points, 1))
    degree = degree if degree != 2 else 1
    spline = make_interp_spline(rows, np.eye(len(rows)), k=degree)
    return np.asarray(spline(np.arange(points)), dtype=float)


def _filled(values: Array) -> Array:
    bad = ~np.isfinite(values).all(-1)
    if not bad.any() or bad.all():
        return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    nearest = distance_transform_edt(bad, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def product(knots: Knots, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Where a grid has a knot in every direction.

    Args:
        knots: indices along each direction.
        shape: points along each direction.

    Returns:
        A mask of the grid.
    """
    lines = [
        np.isin(np.arange(points), rows) for rows, points in zip(knots, shape, strict=True)
    ]
    return np.asarray(reduce(np.logical_and.outer, lines))
