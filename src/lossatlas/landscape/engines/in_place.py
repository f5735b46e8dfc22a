"""Models whose weights cannot be replaced: points are written into the weights in place.

The model runs unchanged, as sharded, offloaded, compiled or foreign models require. Each
process moves its own shards: it draws only the matching rows of the directions, and these do
not depend on the number of processes.
"""

from functools import partial

import torch
from torch import Tensor

from lossatlas.landscape.directions import RandomDirection
from lossatlas.landscape.engines.task import Array, Engine, Task
from lossatlas.linalg.params import Params
from lossatlas.objective import Moments
from lossatlas.objective.in_place import Slot, WeightsInPlace


class InPlaceEngine(Engine):
    """Points written into the memory of the parameters, one after another.

    Weights are origin + a u + b v + ..., summed in that order from the origin. A copy of them
    is restored after every chunk, also after an error or an interrupt.

    Args:
        task: what to evaluate.
    """

    name = "in_place"
    chunk = 16

    def __init__(self, task: Task) -> None:
        self.task = task
        objective, plane = task.objective, task.plane
        self._placed = objective.placed or WeightsInPlace(objective.model, plane.origin)
        self.memory = memory(task)
        # All is read before anything moves: origin and directions may follow the weights.
        live = plane.origin is self._placed or self._is_live(plane.origin)
        self._origin = None if live else self._pieces(plane.origin)
        self._directions = [self._pieces(direction) for direction in plane.directions]

    def _is_live(self, origin: Params) -> bool:
        slots = self._placed.slots
        return all(slots[name].is_memory(value) for name, value in origin.items())

    def _pieces(self, vector: Params) -> dict[str, Tensor]:
        return {n: _piece(vector, n, slot) for n, slot in self._placed.slots.items()}

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        task, placed = self.task, self._placed
        moments = task.moments(len(coordinates))
        with torch.no_grad(), task.objective.session(), placed.kept() as own:
            for index, point in enumerate(coordinates.tolist()):
                self._move_to(self._origin or own, point)
                here = task.buffers_at(point)
                task.objective.swapped(here, partial(self._walk, moments, index))
        return moments

    def _move_to(self, origin: Params, point: list[float]) -> None:
        self._placed.write(origin)
        for step, direction in zip(point, self._directions, strict=True):
            if step:
                for name, value in direction.items():
                    self._placed.slots[name].memory.add_(value, alpha=step)

    def _walk(self, moments: Moments, index: int) -> None:
        task = self.task
        task.objective.prepare()
        for batch in task.objective.iter_batches():
            task.add(moments, task.measure(batch), batch, index)


def _piece(vector: Params, name: str, slot: Slot) -> Tensor:
    rows = slot.rows
    if not isinstance(vector, RandomDirection) or rows is None:
        return slot.piece(vector[name]).to(slot.memory)
    piece = torch.zeros_like(slot.memory)
    target = piece if piece.ndim > 1 else piece.view(1, -1)
    for where, block in vector.blocks(name, rows):
        target[where] = block.to(target)
    return piece


def memory(task: Task) -> int:
    """Bytes beyond the model and the data: a copy of its piece, and one of each direction."""
    objective = task.objective
    placed = objective.placed or WeightsInPlace(objective.model, task.plane.origin)
    return (task.plane.dimension + 1) * placed.bytes
