"""True losses around an initialization: planes of several radii and scattered points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.directions import RandomDirection
from lossatlas.landscape.engines import Task, build, choose
from lossatlas.landscape.plane import Plane
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.names import padding_rows
from lossatlas.rng import derive_seed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Where losses are taken around each initialization.

    Directions are filter-normalized, so radius 1 moves each filter by its own norm. The draws
    are the same for all initializations: what differs is the landscape, not the sample.

    Attributes:
        planes: random planes an initialization.
        points: along each side of a plane; odd, so that one is the middle.
        radii: half the side of the planes.
        scattered: points in a ball of `dimensions` further directions.
        dimensions: of that ball.
        reach: its radius, in the units of `radii`.
        cloud: scattered points that enter the Rips complex.
        seed: of directions and points.
    """

    planes: int = 2
    points: int = 15
    radii: tuple[float, ...] = (0.1, 0.5, 1.0)
    scattered: int = 650
    dimensions: int = 6
    reach: float = 1.0
    cloud: int = 150
    seed: int = 0

    @property
    def losses(self) -> int:
        """How many losses are evaluated for one initialization."""
        return self.planes * len(self.radii) * self.points**2 + self.scattered

    def grid(self) -> Array:
        """Coordinates of all grids of one plane."""
        axis = np.linspace(-1, 1, self.points)
        square = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        return np.concatenate([radius * square for radius in self.radii])

    def ball(self) -> Array:
        """Coordinates of the scattered points, even in the ball."""
        source = np.random.default_rng(derive_seed("inits ball", self.seed))
        rays = source.standard_normal((self.scattered, self.dimensions))
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        return np.asarray(
            self.reach * rays * source.random((self.scattered, 1)) ** (1 / self.dimensions)
        )


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """The losses around one initialization.

    Attributes:
        center: loss of the initialization itself.
        planes: shape (planes, radii, points, points).
        points: coordinates of the scattered points, shape (scattered, dimensions).
        scattered: their losses, shape (scattered,).
    """

    center: float
    planes: Array
    points: Array
    scattered: Array


class LossSampler:
    """Takes neighborhoods; the engine is chosen once, on the first of them.

    Args:
        objective: the loss of a fixed batch.
        sampling: where losses are taken.
    """

    def __init__(self, objective: Objective, sampling: Sampling) -> None:
        self.objective, self.sampling = objective, sampling
        self._grid, self._ball = sampling.grid(), sampling.ball()
        self._engine: dict[int, str] = {}

    def neighborhood(self, params: Params) -> Neighborhood:
        """The losses around one initialization."""
        how = self.sampling
        shape = (len(how.radii), how.points, how.points)
        planes = [
            self._losses(params, range(2 * k, 2 * k + 2), self._grid).reshape(shape)
            for k in range(how.planes)
        ]
        axes = range(2 * how.planes, 2 * how.planes + how.dimensions)
        scattered = self._losses(params, axes, self._ball)
        center = self.objective.value(params)
        return Neighborhood(center, np.stack(planes), self._ball, scattered)

    def _losses(self, params: Params, axes: Sequence[int], coordinates: Array) -> Array:
        seed = self.sampling.seed
        still = padding_rows(self.objective.model, tied=False)
        directions = tuple(
            RandomDirection(params, seed, axis, "filter", biases=False, still=still)
            for axis in axes
        )
        plane = Plane(params, directions, tuple(f"direction {axis}" for axis in axes))
        task = Task(self.objective, plane)
        if len(axes) not in self._engine:
            self._engine[len(axes)] = choose(task, "auto", coordinates[:2])
        engine = build(task, self._engine[len(axes)])
        pieces = [
            engine.evaluate(coordinates[start : start + engine.chunk])[:, 0]
            for start in range(0, len(coordinates), engine.chunk)
        ]
        return np.concatenate(pieces)
