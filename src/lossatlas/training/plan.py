"""Length, batch order and checkpoints of a training run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.objective.batches import Batch, check_batches, to_device, walk_to_end
from lossatlas.training.dataset import Dataset
from lossatlas.training.seeding import epoch_order

Data = Dataset | Sequence[Batch]


@dataclass(frozen=True)
class Plan:
    """Batches of a training run: step -> batch, a pure function of the data and the seed.

    Attributes:
        data: a data set, reshuffled every epoch, or batches, used in their order.
        batch_size: examples per batch; given batches keep their size.
    """

    data: Data
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch; the last one may be smaller."""
        if isinstance(self.data, Dataset):
            return -(-len(self.data) // self.batch_size)
        return len(self.data)

    def in_order(self) -> Sequence[Batch]:
        """All batches once, not shuffled."""
        if isinstance(self.data, Dataset):
            return self.data.batches(self.batch_size)
        return self.data

    def walk(self, seed: int, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps from `start` to `stop`."""
        for step in range(start, stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if not isinstance(self.data, Dataset):
                yield self.data[position]
                continue
            if position == 0 or step == start:
                order = epoch_order(seed, epoch, len(self.data))
            rows = order[position * self.batch_size :][: self.batch_size]
            yield self.data.inputs[rows], self.data.targets[rows]

    def walk_each(self, seeds: Sequence[int], stop: int) -> Iterator[Batch]:
        """Batches of many runs together, each with its own data order."""
        if not isinstance(self.data, Dataset):
            yield from self.walk(0, 0, stop)
            return
        inputs, targets = self.data.inputs, self.data.targets
        for step in range(stop):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0:
                walks = [epoch_order(seed, epoch, len(self.data)) for seed in seeds]
                orders = torch.stack(walks).to(inputs.device)
            rows = orders[:, position * self.batch_size :][:, : self.batch_size]
            picked = (part.index_select(0, rows.flatten()) for part in (inputs, targets))
            yield tuple(part.view(*rows.shape, *part.shape[1:]) for part in picked)


def make_plan(data: Data, batch_size: int, device: torch.device) -> Plan:
    """Check the data and move them to the device."""
    if isinstance(data, Dataset):
        check_at_least("batch_size", batch_size, 1)
        return Plan(data.to(device), batch_size)
    batches = [to_device(batch, device) for batch in walk_to_end(check_batches(data))]
    return Plan(batches, batch_size)


def task_of(data: Data) -> str:
    """Task of the data."""
    return data.task if isinstance(data, Dataset) else "classification"


def count_steps(plan: Plan, epochs: int | None, steps: int | None) -> int:
    """Number of steps of a training run."""
    if (epochs is None) == (steps is None):
        raise ArgumentError("pass either `epochs` or `steps` to set the length of training.")
    if steps is not None:
        check_at_least("steps", steps, 1)
        return steps
    check_at_least("epochs", epochs, 1)
    return int(epochs or 0) * plan.steps_per_epoch


def kept_steps(keep: int | Sequence[int], steps: int) -> tuple[int, ...]:
    """Steps at which checkpoints are kept."""
    if isinstance(keep, Sequence):
        for step in keep:
            check_at_least("keep", step, 0)
        if any(step > steps for step in keep):
            raise ArgumentError(
                f"`keep` must contain steps up to {steps}, the last one; got {max(keep)}."
            )
        return tuple(sorted(set(keep)))
    check_at_least("keep", keep, 0)
    if keep == 1:
        raise ArgumentError("`keep` must be 0, or at least 2 for the start and the end; got 1.")
    # More than all steps are all steps.
    keep = min(keep, steps + 1)
    return tuple(sorted({round(part * steps / (keep - 1)) for part in range(keep)}))


def copied(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Detached copies."""
    return {name: value.detach().clone() for name, value in tensors.items()}
