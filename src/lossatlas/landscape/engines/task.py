"""The task of an engine: an objective, a plane, and metrics from the same forward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.landscape.engines.recall import Unmoved
from lossatlas.landscape.plane import Plane
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Measured, Moments, Objective
from lossatlas.objective.shared import merge
from lossatlas.ranks import Ranks

Array = NDArray[np.float64]
Metric = Callable[[nn.Module, Batch], Measured]


# Coordinates -> the quantities there, as a row of what engines return.
Known = Mapping[tuple[float, ...], Array]


class Engine:
    """A way to evaluate points.

    Attributes:
        task: what is evaluated.
        name: what users call it.
        chunk: how many points it likes at once; finished chunks are what a resume keeps.
        memory: bytes it needs beyond the model and the data.
        independent: whether a point has the same bits whatever is evaluated beside it.
    """

    independent = True

    task: "Task"
    name: str
    chunk: int
    memory: int

    def evaluate(self, coordinates: Array) -> Array:
        """The quantities of some points.

        Args:
            coordinates: shape (points, dimension), with the last direction moving fastest.

        Returns:
            Shape (points, 2 * quantities + 2): all means, then all standard errors; the
            largest share of the loss's variance that one unit carries, and the effective
            number of units. Of the data of all processes, where they are spread.
        """
        return columns(self.task.joined(lambda: self.moments(coordinates)))

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points over the batches of this process.

        Args:
            coordinates: as for `evaluate`.

        Raises:
            NotImplementedError: every engine has its own.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Task:
    """An objective on a plane; metrics are evaluated in the same forward pass.

    Attributes:
        objective: what is mapped.
        plane: where.
        metrics: name -> function of (model, batch), as a loss.
        ranks: the processes that each evaluate their share of the data.
        unmoved: modules that give the same at every point; the first look fills it in.
    """

    objective: Objective
    plane: Plane
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    ranks: Ranks | None = None
    unmoved: Unmoved = field(default_factory=Unmoved)

    def shared(self) -> "Task":
        """What engines are given: the share of this process, and whose sums are added."""
        ranks = self.objective.ranks
        if ranks is None:
            return self
        return replace(self, objective=self.objective.local, ranks=ranks)

    def joined(self, call: Callable[[], Moments]) -> Moments:
        """The sums of all processes, from those of each.

        Args:
            call: gives the sums of this process.

        Returns:
            The same on every process.
        """
        if self.ranks is not None:
            return merge(self.ranks.share(call))
        with self.objective.monitored():
            return call()

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names of what is measured, the loss first."""
        return ("loss", *self.metrics)

    @property
    def whole_origin(self) -> Params:
        """The origin with its buffers."""
        here = self.buffers_at((0.0,) * self.plane.dimension)
        return {**self.plane.origin, **here} if here else self.plane.origin

    @property
    def like(self) -> Params:
        """Tensors like those of the origin; without numbers where these would be gathered."""
        here = self.plane.origin is self.objective.live
        return self.objective.shapes if here else self.plane.origin

    def buffers_at(self, coordinates: Sequence[float] | Array) -> Params:
        """The buffers of a point, where the plane has its own.

        Args:
            coordinates: one number per direction.

        Returns:
            name -> tensor; empty where the model's own stay.
        """
        held = self.plane.buffers
        return {} if held is None else held.at([float(each) for each in coordinates])

    def corners(self) -> list[dict[str, Tensor]]:
        """The origin and the directions, drawn once for all engines that want them whole.

        Returns:
            Name -> tensor for each.
        """
        return self._corners

    @property
    def directions(self) -> Sequence[Params]:
        """The directions, not drawn again where `corners` has drawn them."""
        return self._corners[1:] if "_corners" in vars(self) else self.plane.directions

    @cached_property
    def _corners(self) -> list[dict[str, Tensor]]:
        return [dict(corner.items()) for corner in (self.plane.origin, *self.plane.directions)]

    def measure(self, batch: Batch) -> list[Measured]:
        """All quantities of one batch at the weights swapped in, from one forward pass.

        Args:
            batch: on the model's device.

        Returns:
            One tensor per quantity, shape (batch,) or (), or pairs of shape (batch,).
        """
        return self.objective.measure_all(batch, self.metrics)

    def moments(self, points: int) -> Moments:
        """Empty sums for some points.

        Args:
            points: how many.

        Returns:
            The sums.
        """
        return Moments(points, len(self.quantities))

    def add(
        self, moments: Moments, measured: Sequence[Measured], batch: Batch, points: slice | int
    ) -> None:
        """Take what `measure` gave into the sums.

        Args:
            moments: the sums.
            measured: one tensor per quantity; for a slice with an axis of points in front.
            batch: what was measured.
            points: which points, or which one.
        """
        if not self.objective.idling:
            moments.add_batch(measured, partial(self.objective.size_of, batch), points)


def columns(moments: Moments) -> Array:
    """What engines return: means, standard errors, and what certainty needs of the loss."""
    loss = moments.leverage()[:, :1], moments.effective()[:, :1]
    return np.concatenate([moments.mean(), moments.stderr(), *loss], axis=1)


def quantities_of(values: Array) -> int:
    """How many quantities an array that engines returned holds."""
    return int(values.shape[-1] - 2) // 2


def bytes_of(*tensors: Tensor) -> int:
    """The memory of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
