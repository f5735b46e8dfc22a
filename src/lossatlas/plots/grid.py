"""The part of a map that plots use: cells, missing values, errors, landmarks, minima."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lossatlas.intervals import t_quantile
from lossatlas.text import number, percent, with_error

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
# What a map without landmarks is drawn around.
CENTER = "origin"
MOST_MINIMA = 24
ON_EDGE, UNSURE = "minimum on the edge", "minimum within the error"
UNSURE_ON_EDGE = f"{UNSURE}, on the edge"


class Grid(Protocol):
    """The attributes of a map that plots use; any object with them can be drawn."""

    @property
    def values(self) -> Floats:
        """Losses, indexed by the axes."""

    @property
    def stderr(self) -> Floats:
        """Standard errors, same shape; NaN where there is none."""

    @property
    def axes(self) -> tuple[Floats, ...]:
        """Coordinates along each axis."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each axis."""

    @property
    def computed(self) -> Bools:
        """False where a value was interpolated."""

    @property
    def unit(self) -> str:
        """Sampling unit of the errors."""

    @property
    def count(self) -> int:
        """Number of sampling units; 0 if unknown."""

    @property
    def landmarks(self) -> Mapping[str, Floats]:
        """Name -> coordinates of points of interest."""

    @property
    def landmark_values(self) -> Mapping[str, Floats]:
        """Name -> loss at the points themselves."""

    @property
    def landmark_residuals(self) -> Mapping[str, Floats]:
        """Name -> how far they lie off the map."""


class Tree(Protocol):
    """The attributes of a merge tree that plots use."""

    @property
    def minima(self) -> Ints:
        """Flat index of each minimum."""

    @property
    def saddles(self) -> Ints:
        """Flat index of the point of each merge."""

    @property
    def minima_values(self) -> Floats:
        """Loss at each minimum."""

    @property
    def saddle_values(self) -> Floats:
        """Level of each merge."""

    @property
    def ended(self) -> Ints:
        """Number of the minimum whose branch ends there."""

    @property
    def into(self) -> Ints:
        """Number of the one that continues."""

    @property
    def basins(self) -> Ints:
        """Number of the basin of each point; -1 where there is no loss."""

    @property
    def low(self) -> float:
        """Lowest value."""

    @property
    def high(self) -> float:
        """Highest value."""

    @property
    def threshold(self) -> float:
        """Length above which a branch is certain."""

    @property
    def persistences(self) -> Floats:
        """Length of the branch of each minimum."""

    @property
    def certain(self) -> Bools:
        """Whether it is longer than the threshold."""

    @property
    def on_edge(self) -> Bools:
        """Whether its minimum lies on the edge of a map."""

    @property
    def counted(self) -> Bools:
        """Whether it is certain and counts: its minimum does not lie on the edge of a map."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Landmark:
    """Named points on a map, in the order in which they were visited.

    Attributes:
        name: as the map calls them.
        points: (k, dimensions) coordinates.
        below: loss of the map at each point; NaN outside the map.
        seen: loss at the point itself, off the plane; NaN where unknown.
        residual: how far it lies off the plane, as a share of its distance.
    """

    name: str
    points: Floats
    below: Floats
    seen: Floats
    residual: Floats

    @property
    def is_path(self) -> bool:
        """Whether the points are joined by a line."""
        return self.name.startswith("trajectory") and len(self.points) > 1

    @property
    def is_center(self) -> bool:
        """Whether it is the one point that a map without landmarks is drawn around."""
        return self.name == CENTER and len(self.points) == 1

    def texts(self) -> list[str]:
        """What each point says of itself."""
        rows = zip(self.seen.tolist(), self.below.tolist(), self.residual.tolist(), strict=True)
        return [
            "\n".join([f"{self.name} {step + 1} of {len(self.points)}", *_facts(*row)])
            for step, row in enumerate(rows)
        ]


def _facts(seen: float, below: float, residual: float) -> Sequence[str]:
    facts = {
        "loss there": number(seen) if np.isfinite(seen) else "",
        "loss on the map": number(below) if np.isfinite(below) else "",
        "off the plane": percent(residual) if np.isfinite(residual) else "",
    }
    return [f"{name} {value}" for name, value in facts.items() if value]


@dataclass(frozen=True, eq=False)
class Minima:
    """Minima to mark, longest-lived first.

    Attributes:
        numbers: as the merge tree counts them, 0 the deepest.
        points: (k, dimensions) coordinates.
        values: loss there.
        stderr: its standard error, NaN where there is none.
        persistences: length of the branch of each; infinite for the deepest.
        certain: True where that is longer than the tree's threshold.
        on_edge: True where the minimum lies on the edge of the map and is not counted.
    """

    numbers: Ints
    points: Floats
    values: Floats
    stderr: Floats
    persistences: Floats
    certain: Bools
    on_edge: Bools

    def texts(self, chosen: Bools) -> list[str]:
        """What the chosen ones say of themselves."""
        return [
            f"minimum {self.numbers[k]}\n"
            f"loss {with_error(float(self.values[k]), float(self.stderr[k]))}\n"
            f"lasts {number(float(self.persistences[k]))}"
            for k in np.flatnonzero(chosen)
        ]


def minimum_groups(minima: Minima, sure: str) -> list[tuple[str, Bools]]:
    """What minima are called on a map, and which they are; nothing where there are none."""
    certain, on_edge = minima.certain, minima.on_edge
    groups = [
        (sure, certain & ~on_edge),
        (ON_EDGE, certain & on_edge),
        (UNSURE, ~certain & ~on_edge),
        (UNSURE_ON_EDGE, ~certain & on_edge),
    ]
    return [(name, chosen) for name, chosen in groups if chosen.any()]


def landmarks(grid: Grid) -> list[Landmark]:
    """The landmarks of a map with the loss of the map at each."""
    if grid.landmarks:
        return [_landmark(grid, name, at) for name, at in grid.landmarks.items() if len(at)]
    center = _landmark(grid, CENTER, np.zeros((1, grid.values.ndim)))
    return [center] if np.isfinite(center.below).any() else []


def _landmark(grid: Grid, name: str, at: Floats) -> Landmark:
    points = np.asarray(at, dtype=np.float64)
    unknown = np.full(len(points), np.nan)
    return Landmark(
        name=name,
        points=points,
        below=values_at(grid, points),
        seen=np.asarray(grid.landmark_values.get(name, unknown), dtype=np.float64),
        residual=np.asarray(grid.landmark_residuals.get(name, unknown), dtype=np.float64),
    )


def most_persistent(tree: Tree, most: int = MOST_MINIMA) -> Ints:
    """The minima that last longest."""
    return np.argsort(-tree.persistences, kind="stable")[:most]


def marked_minima(grid: Grid, tree: Tree | None, most: int = MOST_MINIMA) -> Minima:
    """The minima to mark on a map; the lowest point alone without a tree."""
    if tree is None:
        finite = np.isfinite(grid.values)
        # An interpolated point may not be as low as it is drawn.
        eligible = finite & grid.computed if (finite & grid.computed).any() else finite
        at = np.array([np.where(eligible, grid.values, np.inf).argmin()])[: int(finite.any())]
        numbers, lives = np.arange(at.size), np.full(at.size, np.inf)
        certain = np.ones(at.size, dtype=np.bool_)
        on_edge = ~certain
    else:
        numbers = most_persistent(tree, most)
        at, lives = tree.minima[numbers], tree.persistences[numbers]
        certain = tree.certain[numbers]
        on_edge = tree.on_edge[numbers] & ~tree.counted[numbers]
    return Minima(
        numbers=numbers,
        points=coordinates(grid, at),
        values=grid.values.ravel()[at],
        stderr=grid.stderr.ravel()[at],
        persistences=lives,
        certain=certain,
        on_edge=on_edge,
    )


def values_at(grid: Grid, points: Floats) -> Floats:
    """Loss of the map at some points, linear between its grid points; NaN outside."""
    from scipy.interpolate import RegularGridInterpolator

    if not len(points):
        return np.empty(0)
    inner = RegularGridInterpolator(
        tuple(np.asarray(axis, dtype=np.float64) for axis in grid.axes),
        finite_values(grid),
        bounds_error=False,
        fill_value=np.nan,
    )
    return np.asarray(inner(points), dtype=np.float64)


def finite_values(grid: Grid) -> Floats:
    """The losses, NaN where they are not finite."""
    return np.where(np.isfinite(grid.values), grid.values, np.nan)


def coordinates(grid: Grid, flat: Ints) -> Floats:
    """Coordinates of grid points."""
    index = np.unravel_index(flat, grid.values.shape)
    return np.stack([axis[i] for axis, i in zip(grid.axes, index, strict=True)], axis=-1)


def cell_edges(axis: Floats) -> Floats:
    """Borders of the cells around grid coordinates."""
    if axis.size == 1:
        return np.array([axis[0] - 0.5, axis[0] + 0.5])
    middle = (axis[1:] + axis[:-1]) / 2
    first, last = axis[0] - (middle[0] - axis[0]), axis[-1] + (axis[-1] - middle[-1])
    return np.concatenate([[first], middle, [last]])


def known_errors(grid: Grid) -> Bools:
    """Where the map has a standard error."""
    return np.asarray(np.isfinite(grid.stderr) & np.isfinite(grid.values))


def spread_errors(grid: Grid) -> Floats:
    """Standard errors, each interpolated point with that of the nearest computed one."""
    from scipy.ndimage import distance_transform_edt

    has_error = known_errors(grid)
    if not has_error.any():
        return np.full(grid.values.shape, np.nan)
    steps = [float(np.mean(np.diff(axis))) if axis.size > 1 else 1.0 for axis in grid.axes]
    nearest = distance_transform_edt(
        ~has_error, sampling=steps, return_distances=False, return_indices=True
    )
    return np.where(np.isfinite(grid.values), grid.stderr[tuple(nearest)], np.nan)


def error_band(grid: Grid) -> tuple[Floats, str]:
    """How far the true loss may lie from each value of the map, at 95 %."""
    errors = spread_errors(grid)
    if not grid.count:
        return 1.96 * errors, "± 1.96 standard errors"
    return t_quantile(0.95, grid.count) * errors, "95 % band"


def nonfinite_spans(grid: Grid) -> list[tuple[float, float]]:
    """Stretches of a line where the loss is not finite."""
    edges = cell_edges(grid.axes[0])
    return [(float(edges[a]), float(edges[b])) for a, b in _runs(~np.isfinite(grid.values))]


def nonfinite_boxes(grid: Grid) -> list[tuple[float, float, float, float]]:
    """What no contour covers: the cells around points whose loss is not finite."""
    x, y = grid.axes
    boxes = []
    for i, column in enumerate(~np.isfinite(grid.values)):
        left, right = x[max(i - 1, 0)], x[min(i + 1, x.size - 1)]
        for start, stop in _runs(column):
            low, high = y[max(start - 1, 0)], y[min(stop, y.size - 1)]
            boxes.append((float(left), float(right), float(low), float(high)))
    return boxes


def _runs(present: Bools) -> Ints:
    ends = np.concatenate([[False], present, [False]]).astype(np.int64)
    return np.flatnonzero(np.diff(ends)).reshape(-1, 2)


def hover_grid(grid: Grid) -> NDArray[np.object_]:
    """What each point of a map says of itself: its loss, the error, how it came about."""
    texts = [
        with_error(value, stderr) + ("" if computed else " (interpolated)")
        for value, stderr, computed in zip(
            grid.values.ravel().tolist(),
            grid.stderr.ravel().tolist(),
            grid.computed.ravel().tolist(),
            strict=True,
        )
    ]
    return np.array(texts, dtype=object).reshape(grid.values.shape)
