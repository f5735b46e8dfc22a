"""The plain loop: one point after another. Slow, obvious, and what the others must equal."""

from collections.abc import Iterator
from functools import partial

import torch

from lossatlas.landscape.engines.buffer import PointBuffer
from lossatlas.landscape.engines.task import Array, Task, bytes_of, columns
from lossatlas.objective import Batch, Moments
from lossatlas.objective.batches import to_device


class PlainEngine:
    """Every point through the model as it is; serves any model, loss and mode.

    Args:
        task: what to evaluate.
    """

    name = "plain"
    chunk = 16

    def __init__(self, task: Task) -> None:
        self.task = task
        self.memory = memory(task)
        self._buffer = PointBuffer(task.plane.origin, task.directions)

    def evaluate(self, coordinates: Array) -> Array:
        """Means and standard errors of some points; see `Engine`.

        Args:
            coordinates: shape (points, dimension).

        Returns:
            Shape (points, 2 * quantities + 2).
        """
        task, buffer = self.task, self._buffer
        moments = task.moments(len(coordinates))
        if task.plane.buffers is not None:
            return self._each(coordinates)

        def run() -> None:
            here = None
            for index, batch in _pairs(task, len(coordinates)):
                if index != here:
                    buffer.move_to(coordinates[index])
                    task.objective.prepare()
                    here = index
                task.add(moments, task.measure(batch), batch, index)

        with torch.no_grad(), task.objective.session():
            task.objective.swapped(buffer.views, run)
        return columns(moments)

    def _each(self, coordinates: Array) -> Array:
        # Every point with buffers of its own.
        task, moments = self.task, self.task.moments(len(coordinates))
        with torch.no_grad(), task.objective.session():
            for index, place in enumerate(coordinates):
                self._buffer.move_to(place)
                whole = self._buffer.views | dict(task.buffers_at(place))
                task.objective.swapped(whole, partial(_walk, task, moments, index))
        return columns(moments)

    def first_look(self, corner: Array) -> Array:
        """The origin itself, nothing copied or summed, and then another point.

        Both in one session: a model that keeps what it made of its weights gives the first
        again, as it would all over a map.

        Args:
            corner: the other point, shape (dimension,).

        Returns:
            Shape (2, 2 * quantities + 2), the origin first.
        """
        task, moments = self.task, self.task.moments(2)
        self._buffer.move_to(corner.tolist())
        there = self._buffer.views | dict(task.buffers_at(corner.tolist()))
        with torch.no_grad(), task.objective.session():
            for index, weights in enumerate((task.whole_origin, there)):
                task.objective.swapped(weights, partial(_walk, task, moments, index))
        return columns(moments)


def at_origin(task: Task) -> Array:
    """The quantities at the origin of the plane itself; nothing is copied or summed.

    Args:
        task: what to evaluate.

    Returns:
        Shape (1, 2 * quantities + 2).
    """
    moments = task.moments(1)
    with torch.no_grad(), task.objective.session():
        task.objective.swapped(task.whole_origin, partial(_walk, task, moments, 0))
    return columns(moments)


def _walk(task: Task, moments: Moments, index: int) -> None:
    task.objective.prepare()
    for batch in task.objective.each_batch():
        task.add(moments, task.measure(batch), batch, index)


def memory(task: Task) -> int:
    """Bytes that the plain loop needs beyond the model and the data.

    Args:
        task: what to evaluate.

    Returns:
        Bytes.
    """
    return PointBuffer.copies(task.plane.dimension) * bytes_of(*task.plane.origin.values())


def _pairs(task: Task, points: int) -> Iterator[tuple[int, Batch]]:
    objective = task.objective
    if isinstance(objective.batches, list | tuple) or objective.mode == "recalibrated":
        device = objective.device
        for index in range(points):
            for batch in objective.batches:
                yield index, to_device(batch, device)
        return
    # Batches that are made while walking cost more than moving the weights does.
    for batch in objective.each_batch():
        for index in range(points):
            yield index, batch
