"""Dataset: examples in memory, and the batches made of them."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError, DataError
from lossatlas.training.devices import chosen_device
from lossatlas.training.seeding import epoch_order

TaskKind = Literal["classification", "regression", "language"]
TASKS: tuple[str, ...] = get_args(TaskKind)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with their targets, held in memory.

    Attributes:
        inputs: shape (examples, ...): float32 numbers, images as (channels, height, width), or
            int64 characters, shape (examples, block).
        targets: class indices int64 (examples,), numbers float32 (examples, k), or the next
            characters int64 (examples, block).
        name: what the user calls it.
        task: "classification", "regression" or "language".
        classes: the names of the classes; empty for other tasks.
        vocabulary: the characters by index; empty for other tasks.

    Raises:
        DataError: empty, or not as many targets as inputs.
        UnknownNameError: an unknown task.
    """

    inputs: Tensor
    targets: Tensor
    name: str = "data"
    task: TaskKind = "classification"
    classes: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_one_of("task", self.task, TASKS)
        for argument in ("inputs", "targets"):
            value = getattr(self, argument)
            if getattr(value, "ndim", 0) == 0 or not hasattr(value, "numel"):
                raise DataError(f"`{argument}` must be a tensor with an axis of examples.")
        if not len(self.inputs):
            raise DataError(f"'{self.name}' holds no examples; give one that holds some.")
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"'{self.name}' has {len(self.inputs)} inputs but {len(self.targets)} targets; "
                "every example needs one of each."
            )

    def __len__(self) -> int:
        """How many examples there are.

        Returns:
            Their number.
        """
        return len(self.inputs)

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for an example (or for each character)."""
        if self.task == "classification":
            return len(self.classes) or int(self.targets.max()) + 1
        if self.task == "language":
            return len(self.vocabulary)
        return self.targets[0].numel()

    def batches(
        self, batch_size: int, *, examples: int | None = None, seed: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Cut the data into batches.

        Args:
            batch_size: examples a batch; the last one may be smaller.
            examples: only the first so many; all by default.
            seed: shuffle with this seed; None keeps the order (views, nothing is copied).

        Returns:
            Pairs (input, target).

        Raises:
            ArgumentError: sizes below 1, or more examples asked for than there are.
        """
        check_at_least("batch_size", batch_size, 1)
        part = self if examples is None else self.take(examples)
        if seed is not None:
            part = part.pick(epoch_order(seed, 0, len(part)))
        pieces = (torch.split(part.inputs, batch_size), torch.split(part.targets, batch_size))
        return list(zip(*pieces, strict=True))

    def take(self, n: int) -> "Dataset":
        """The first `n` examples.

        Args:
            n: how many.

        Returns:
            A view.

        Raises:
            ArgumentError: below 1, or more than there are.
        """
        check_at_least("examples", n, 1)
        if n > len(self):
            raise ArgumentError(
                f"`examples` must be at most {len(self)}, the size of '{self.name}'; got {n}."
            )
        return replace(self, inputs=self.inputs[:n], targets=self.targets[:n])

    def skip(self, n: int) -> "Dataset":
        """All but the first `n` examples: what `take(n)` leaves, for a test set.

        Args:
            n: how many to leave out.

        Returns:
            A view.

        Raises:
            ArgumentError: below 0, or none would be left.
        """
        check_at_least("examples", n, 0)
        if n >= len(self):
            raise ArgumentError(
                f"`examples` must be below {len(self)}, the size of '{self.name}'; got {n}."
            )
        return replace(self, inputs=self.inputs[n:], targets=self.targets[n:])

    def pick(self, rows: Tensor) -> "Dataset":
        """The examples with these indices.

        Args:
            rows: int64, shape (k,).

        Returns:
            Copies, in this order.
        """
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows])

    def to(self, device: str | torch.device) -> "Dataset":
        """The data on a device.

        Args:
            device: where to.

        Returns:
            The same data there.

        Raises:
            ArgumentError: there is no such device.
        """
        there = chosen_device(device)
        return replace(self, inputs=self.inputs.to(there), targets=self.targets.to(there))
