"""Reading the grid of a map: cells, walls, errors, cuts, and the ground beneath a point."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from lossatlas.errors import ArgumentError
from lossatlas.intervals import t_quantile
from lossatlas.landscape.landscape import Landscape

Floats = NDArray[np.float64]
# What a map without landmarks is drawn around.
CENTER = "origin"


def ground(landscape: Landscape, points: Floats) -> Floats:
    """Loss of the map beneath some points, linear between its grid points."""
    if not len(points):
        return np.empty(0)
    values = np.where(landscape.finite, landscape.values, np.nan)
    inner = RegularGridInterpolator(
        tuple(np.asarray(axis, dtype=np.float64) for axis in landscape.axes),
        values,
        bounds_error=False,
        fill_value=np.nan,
    )
    return np.asarray(inner(points), dtype=np.float64)


def coordinates(landscape: Landscape, flat: NDArray[np.int64]) -> Floats:
    """Coordinates of grid points."""
    index = np.unravel_index(flat, landscape.values.shape)
    return np.stack([axis[i] for axis, i in zip(landscape.axes, index, strict=True)], axis=-1)


def cell_edges(axis: Floats) -> Floats:
    """Borders of the cells around grid coordinates."""
    if axis.size == 1:
        return np.array([axis[0] - 0.5, axis[0] + 0.5])
    middle = (axis[1:] + axis[:-1]) / 2
    first, last = axis[0] - (middle[0] - axis[0]), axis[-1] + (axis[-1] - middle[-1])
    return np.concatenate([[first], middle, [last]])


def known_errors(landscape: Landscape) -> NDArray[np.bool_]:
    """Where the map has a standard error."""
    return np.asarray(np.isfinite(landscape.stderr) & landscape.finite)


def spread_errors(landscape: Landscape) -> Floats:
    """Standard errors, each interpolated point with that of the nearest computed one."""
    from scipy.ndimage import distance_transform_edt

    known = known_errors(landscape)
    if not known.any():
        return np.full(landscape.values.shape, np.nan)
    steps = [float(np.mean(np.diff(axis))) if axis.size > 1 else 1.0 for axis in landscape.axes]
    nearest = distance_transform_edt(
        ~known, sampling=steps, return_distances=False, return_indices=True
    )
    filled = landscape.stderr[tuple(nearest)]
    return np.where(landscape.finite, filled, np.nan)


def error_band(landscape: Landscape) -> tuple[Floats, str]:
    """How far the true loss may lie from each value of the map, at 95 %."""
    errors = spread_errors(landscape)
    if not landscape.count:
        return 1.96 * errors, "± 1.96 standard errors"
    return t_quantile(0.95, landscape.count) * errors, "95 % band"


def nonfinite_spans(landscape: Landscape) -> list[tuple[float, float]]:
    """Stretches of a line where the loss is not finite."""
    (axis,) = landscape.axes
    edges = cell_edges(axis)
    walls = np.concatenate([[False], ~landscape.finite, [False]]).astype(int)
    turns = np.flatnonzero(np.diff(walls))
    return [(float(edges[a]), float(edges[b])) for a, b in turns.reshape(-1, 2)]


def wall_boxes(landscape: Landscape) -> list[tuple[float, float, float, float]]:
    """The ground that no contour covers: the cells around points whose loss is not finite."""
    x, y = landscape.axes
    boxes = []
    for i, column in enumerate(~landscape.finite):
        turns = np.flatnonzero(np.diff(np.concatenate([[False], column, [False]]).astype(int)))
        left, right = x[max(i - 1, 0)], x[min(i + 1, x.size - 1)]
        for start, stop in turns.reshape(-1, 2):
            low, high = y[max(start - 1, 0)], y[min(stop, y.size - 1)]
            boxes.append((float(left), float(right), float(low), float(high)))
    return boxes


def check_dimensions(landscape: Landscape, *wanted: int) -> None:
    """Require a map of so many dimensions."""
    found = landscape.values.ndim
    if found not in wanted:
        shape = {1: "a line", 2: "a plane", 3: "a box"}
        fitting = {
            1: "use `plot_line`",
            2: "use `plot_contour`",
            3: "take a plane of it with `cut`",
        }
        raise ArgumentError(
            f"`landscape` must be a map of {' or '.join(shape[k] for k in wanted)}; "
            f"got one of {shape.get(found, f'{found} dimensions')}; "
            f"{fitting.get(found, 'take a part of it')}."
        )


def _kept_landmarks(landscape: Landscape, rest: list[int], at: float) -> dict[str, Floats]:
    # None says that a map lies around its origin; this one may not hold it.
    if at == 0 and not landscape.landmarks:
        return {}
    return {CENTER: np.empty((0, len(rest)))}


def cut(landscape: Landscape, axis: int, at: float | None = None) -> Landscape:
    """A plane of a map of a box (or a line of a map of a plane).

    Args:
        landscape: the map.
        axis: the direction that is held fixed.
        at: its coordinate, taken at the nearest grid point; by default that of the lowest
            point of the map.

    Returns:
        The map of one dimension less, without landmarks: they lie off it. Its origin is one
        where the direction is held at zero.

    Raises:
        ArgumentError: no such direction, or a map of a line.
    """
    if landscape.values.ndim < 2 or not 0 <= axis < landscape.values.ndim:
        raise ArgumentError(
            f"`axis` must be one of 0 to {landscape.values.ndim - 1} of a map of two "
            f"dimensions or more; got {axis!r}."
        )
    place = landscape.minimum[axis] if at is None else at
    index = int(np.abs(landscape.axes[axis] - place).argmin())
    rest = [k for k in range(landscape.values.ndim) if k != axis]
    return replace(
        landscape,
        values=np.take(landscape.values, index, axis),
        stderr=np.take(landscape.stderr, index, axis),
        computed=np.take(landscape.computed, index, axis),
        leverage=None
        if landscape.leverage is None
        else np.take(landscape.leverage, index, axis),
        metrics=_cut_all(landscape.metrics, index, axis),
        metric_stderr=_cut_all(landscape.metric_stderr, index, axis),
        axes=tuple(landscape.axes[k] for k in rest),
        labels=tuple(landscape.labels[k] for k in rest),
        landmarks=_kept_landmarks(landscape, rest, landscape.axes[axis][index]),
        landmark_residuals={},
        landmark_values={},
    )


def _cut_all(grids: Mapping[str, Floats], index: int, axis: int) -> dict[str, Floats]:
    return {name: np.asarray(np.take(grid, index, axis)) for name, grid in grids.items()}
