"""The plain loop: one point after another, the reference for all other engines."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch

from lossatlas.landscape.engines.buffer import PointBuffer
from lossatlas.landscape.engines.recall import Recall, Unmoved, Watch, unmoved_modules
from lossatlas.landscape.engines.task import Array, Engine, Task, bytes_of, columns
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Moments

# The largest block whose release raises the limit up to which glibc keeps freed memory.
_RELEASED = 31 << 20


class PlainEngine(Engine):
    """Evaluate every point with the unchanged model; supports any model, loss and mode.

    Args:
        task: what to evaluate.
    """

    name = "plain"
    chunk = 16

    def __init__(self, task: Task) -> None:
        self.task = task
        self.recall(task.unmoved)
        self._buffer = PointBuffer(task.plane.origin, task.directions)

    def recall(self, unmoved: Unmoved) -> None:
        """Cache modules whose output is the same at every point."""
        self._recall = Recall(self.task.objective, unmoved)
        self.memory = memory(self.task) + self._recall.memory

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        task, buffer, recall = self.task, self._buffer, self._recall
        moments = task.moments(len(coordinates))

        def run() -> None:
            here = None
            for index, number, batch in _pairs(task, len(coordinates)):
                recall.start(number)
                if index != here:
                    buffer.move_to(coordinates[index])
                    task.objective.prepare()
                    here = index
                task.add(moments, task.measure(batch), batch, index)

        _keep_freed_memory()
        alone = task.plane.buffers is not None or task.objective.volatile.matters
        with torch.no_grad(), task.objective.session(), recall.answering():
            if alone or task.objective.joins_statistics:
                self._one_by_one(coordinates, moments)
            else:
                task.objective.swapped(buffer.views, run)
        return moments

    def _one_by_one(self, coordinates: Array, moments: Moments) -> None:
        # Each point starts from the original model, with its own buffers.
        for index, point in enumerate(coordinates):
            walk = partial(_walk, self.task, moments, index)
            self.task.objective.swapped(self.weights(point), walk)

    def weights(self, corner: Array) -> Params:
        """The weights of a point, with its buffers if the plane has buffers."""
        place = corner.tolist()
        self._buffer.move_to(place)
        return self._buffer.views | dict(self.task.buffers_at(place))

    def first_look(self, corner: Array) -> Array:
        """The origin itself, nothing copied or summed, and then another point."""
        return columns(self.task.joined(partial(self._first_look, corner)))

    def _first_look(self, corner: Array) -> Moments:
        task, moments = self.task, self.task.moments(2)
        with task.objective.session():
            unmoved = unmoved_modules(task.objective, task.plane)
        watch = Watch(unmoved) if unmoved else None
        with torch.no_grad():
            for index, weights in enumerate((task.whole_origin, self.weights(corner))):
                with task.objective.session():
                    walk = partial(_walk, task, moments, index, watch)
                    task.objective.swapped(weights, walk)
        if watch is not None:
            task.unmoved.take(watch.found())
            self.recall(task.unmoved)
        return moments


def _keep_freed_memory() -> None:
    # Activations that are given back to the system after a point are taken again, page by
    # page, at the next one: up to a fifth of its time. This block is never written to.
    torch.empty(_RELEASED, dtype=torch.uint8)


def at_origin(task: Task) -> Array:
    """The quantities at the origin of the plane itself; nothing is copied or summed."""

    def walk() -> Moments:
        moments = task.moments(1)
        with torch.no_grad(), task.objective.session():
            task.objective.swapped(task.whole_origin, partial(_walk, task, moments, 0))
        return moments

    return columns(task.joined(walk))


def _walk(task: Task, moments: Moments, index: int, watch: Watch | None = None) -> None:
    task.objective.prepare()
    for number, batch in enumerate(task.objective.iter_batches()):
        with nullcontext() if watch is None or number else watch.point():
            measured = task.measure(batch)
        task.add(moments, measured, batch, index)


def memory(task: Task) -> int:
    """Bytes that the plain loop needs beyond the model and the data."""
    return PointBuffer.copies(task.plane.dimension) * bytes_of(*task.plane.origin.values())


def _pairs(task: Task, points: int) -> Iterator[tuple[int, int, Batch]]:
    objective = task.objective
    if objective.are_at_hand:
        # Looking for the device of a model takes as long as moving a small one.
        held = list(objective.iter_batches())
        yield from ((k, *pair) for k in range(points) for pair in enumerate(held))
        return
    if isinstance(objective.batches, list | tuple) or objective.mode == "recalibrated":
        for index in range(points):
            for number, batch in enumerate(objective.iter_batches()):
                yield index, number, batch
        return
    # Batches that are made while walking cost more than moving the weights does.
    for number, batch in enumerate(objective.iter_batches()):
        for index in range(points):
            yield index, number, batch
