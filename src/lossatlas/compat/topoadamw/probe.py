"""The probe and the persistence image of topoadamw 0.1.0."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes
from lossatlas.rng import derive_seed
from lossatlas.steering.probe import ProbeGrid, probe_losses
from lossatlas.topology.curves import persistence_image
from lossatlas.topology.persistence import persistence

Criterion = Callable[[Tensor, Tensor], Tensor]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Points(ProbeGrid):
    """Points that somebody else chose."""

    given: tuple[tuple[float, float], ...] = ()

    @cached_property
    def points(self) -> Array:
        """The points."""
        return np.array(self.given, dtype=np.float64)


class SubspaceProbe:
    """Losses on a random plane through the weights, filter by filter; new directions each time.

    Args:
        model: what is probed, in eval mode.
        grid_size: a cell of this many points over the span is the step to the neighbors.
            Default 30.
        span: points lie in [-span, span]^2. Default 1.
        n_samples: random points of `probe`. Default 16.
        device: where data are moved; that of the model by default.
        seed: of directions and points.
    """

    def __init__(
        self,
        model: nn.Module,
        grid_size: int = 30,
        span: float = 1.0,
        n_samples: int = 16,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        check_at_least("grid_size", grid_size, 2)
        check_at_least("n_samples", n_samples, 0)
        check_positive("span", span)
        self.model, self.grid_size, self.span = model, grid_size, span
        self.n_samples, self.seed, self._count = n_samples, seed, 0
        self.device = next(model.parameters()).device if device is None else device

    def probe(self, data: Tensor, target: Tensor, criterion: Criterion) -> dict[str, Any]:
        """The loss at the weights, at eight neighbors and at random points.

        Args:
            data: input of the model.
            target: what the criterion compares with.
            criterion: (output, target) -> loss.

        Returns:
            "center": a number; "neighbors": eight; "samples": `n_samples` of them.
        """
        step = 2 * self.span / (self.grid_size - 1)
        ring = [(a * step, b * step) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
        drawn = np.random.default_rng(derive_seed(self.seed, "samples", self._count))
        far = drawn.uniform(-self.span, self.span, (self.n_samples, 2)).tolist()
        losses = self._losses([(0.0, 0.0), *ring, *far], data, target, criterion)
        return {
            "center": float(losses[0]),
            "neighbors": losses[1:9].tolist(),
            "samples": losses[9:].tolist(),
        }

    def grid_probe(
        self, data: Tensor, target: Tensor, criterion: Criterion, grid_size: int = 7
    ) -> Array:
        """The losses on a square grid over the span.

        Args:
            data: input of the model.
            target: what the criterion compares with.
            criterion: (output, target) -> loss.
            grid_size: points along each axis. Default 7.

        Returns:
            Shape (grid_size, grid_size).
        """
        check_at_least("grid_size", grid_size, 2)
        axis = np.linspace(-self.span, self.span, grid_size).tolist()
        points = [(a, b) for a in axis for b in axis]
        return self._losses(points, data, target, criterion).reshape(grid_size, grid_size)

    def _losses(
        self, points: list[Any], data: Tensor, target: Tensor, criterion: Criterion
    ) -> Array:
        seed = derive_seed(self.seed, "directions", self._count)
        self._count += 1
        # The first point of a probe is taken where the weights are.
        grid = _Points(seed=seed, given=((0.0, 0.0), *map(tuple, points)))
        x, y = data.to(self.device), target.to(self.device)

        def closure() -> Tensor:
            return criterion(self.model(x), y)

        with preserved_modes(self.model):
            self.model.eval()
            losses = probe_losses(closure, self.model.parameters(), grid, model=self.model)
        if losses.ndim > 1:
            losses = losses.mean(1)
        return losses[1:]


class LossLandscapeTDA:
    """Persistence images of grids of losses.

    Args:
        resolution: pixels along each axis. Default 50.
        bandwidth_scale: width of the Gaussians in pixels. Default 2.
    """

    def __init__(self, resolution: int = 50, bandwidth_scale: float = 2.0) -> None:
        check_at_least("resolution", resolution, 1)
        check_positive("bandwidth_scale", bandwidth_scale)
        self.resolution, self.bandwidth_scale = resolution, bandwidth_scale

    def compute_persistence_image(self, loss_grid: Array) -> Tensor:
        """Basins and loops of a grid, as two images with a largest pixel of 1.

        Args:
            loss_grid: finite losses above zero, shape (points, points).

        Returns:
            Shape (2, resolution, resolution): degree 0 and degree 1; zero where there is none.
            Axes are log(birth / lowest) and log(death / birth), each from 0 to log 5.

        Raises:
            ArgumentError: losses that are not finite or not above zero.
        """
        values = np.asarray(loss_grid, dtype=np.float64)
        if values.ndim != 2 or not np.isfinite(values).all() or values.min() <= 0:
            raise ArgumentError(
                "`loss_grid` must be a table of finite losses above zero; got shape "
                f"{values.shape}."
            )
        logs = np.log(values / values.min())
        diagram = persistence(logs, error=0.0)
        limit = float(np.log(5.0))
        square = {"births": (0.0, limit), "lengths": (0.0, limit)}
        images = [
            persistence_image(
                diagram,
                **square,
                pixels=(self.resolution, self.resolution),
                spread=self.bandwidth_scale * limit / self.resolution,
                dimension=degree,
                essential=float(logs.max()) if degree == 0 else "drop",
            )
            for degree in (0, 1)
        ]
        largest = [image.max() for image in images]
        scaled = [i / top if top > 0 else i for i, top in zip(images, largest, strict=True)]
        return torch.as_tensor(np.stack(scaled), dtype=torch.float32)
