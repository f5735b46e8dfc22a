"""What is marked on a map: the way of training, the minima, the points that have no loss."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.grids import CENTER, coordinates, ground
from lossatlas.topology import MergeTree

Floats = NDArray[np.float64]
MOST_MINIMA = 24


@dataclass(frozen=True, eq=False)
class Mark:
    """Named points on a map, in the order in which they were visited.

    Attributes:
        name: as the landscape calls them.
        points: (k, dimensions) coordinates.
        ground: loss of the map beneath each point; NaN outside the map.
        seen: loss at the point itself, off the plane; NaN where unknown.
        residual: how far it lies off the plane, as a share of its distance.
    """

    name: str
    points: Floats
    ground: Floats
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

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which points lie on the map."""
        return np.isfinite(self.ground)


@dataclass(frozen=True, eq=False)
class Minima:
    """Minima worth a mark, the longest-lived first.

    Attributes:
        numbers: as the merge tree counts them, 0 the deepest.
        points: (k, dimensions) coordinates.
        values: loss there.
        stderr: its standard error, NaN where there is none.
        persistences: how long each basin lasts; infinite for the deepest.
        certain: True where that is longer than the tree's threshold.
    """

    numbers: NDArray[np.int64]
    points: Floats
    values: Floats
    stderr: Floats
    persistences: Floats
    certain: NDArray[np.bool_]


def landmarks(landscape: Landscape) -> list[Mark]:
    """The landmarks of a landscape with the loss of the map beneath them."""
    if landscape.landmarks:
        known = landscape.landmarks.items()
        return [_mark(landscape, name, where) for name, where in known if len(where)]
    center = _mark(landscape, CENTER, np.zeros((1, landscape.values.ndim)))
    return [center] if center.inside.any() else []


def _mark(landscape: Landscape, name: str, where: Floats) -> Mark:
    points = np.asarray(where, dtype=np.float64)
    unknown = np.full(len(points), np.nan)
    return Mark(
        name=name,
        points=points,
        ground=ground(landscape, points),
        seen=np.asarray(landscape.landmark_values.get(name, unknown), dtype=np.float64),
        residual=np.asarray(landscape.landmark_residuals.get(name, unknown), dtype=np.float64),
    )


def most_persistent(tree: MergeTree, most: int = MOST_MINIMA) -> NDArray[np.int64]:
    """The minima that last longest."""
    return np.argsort(-tree.persistences, kind="stable")[:most]


def marked_minima(
    landscape: Landscape, tree: MergeTree | None, most: int = MOST_MINIMA
) -> Minima:
    """The minima to mark on a map."""
    if tree is None:
        lowest = np.where(landscape.finite, landscape.values, np.inf).argmin()
        where = np.array([lowest])[: int(landscape.finite.any())]
        numbers, lives = np.arange(where.size), np.full(where.size, np.inf)
        certain = np.ones(where.size, dtype=np.bool_)
    else:
        numbers = most_persistent(tree, most)
        where, lives = tree.minima[numbers], tree.persistences[numbers]
        certain = tree.certain[numbers]
    return Minima(
        numbers=numbers,
        points=coordinates(landscape, where),
        values=landscape.values.ravel()[where],
        stderr=landscape.stderr.ravel()[where],
        persistences=lives,
        certain=certain,
    )
