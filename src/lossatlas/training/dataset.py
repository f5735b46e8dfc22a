"""Dataset: examples in memory, and their batches."""

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
    """Examples with their targets, in memory.

    Attributes:
        inputs: shape (examples, ...): float32 numbers, images as (channels, height, width), or
            int64 characters, shape (examples, block).
        targets: class indices int64 (examples,), numbers float32 (examples, k), or the next
            characters int64 (examples, block).
        name: name of the data set.
        task: "classification", "regression" or "language".
        classes: the names of the classes; empty for other tasks.
        vocabulary: the characters by index; empty for other tasks.

    Raises:
        DataError: the data are empty, or inputs and targets differ in number.
        UnknownNameError: the task is unknown.
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
            raise DataError(
                f"'{self.name}' is empty; pass a data set with at least one example."
            )
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"'{self.name}' has {len(self.inputs)} inputs but {len(self.targets)} targets; "
                "every example needs one of each."
            )

    def __len__(self) -> int:
        """Number of examples.

        Returns:
            Their number.
        """
        return len(self.inputs)

    @property
    def outputs(self) -> int:
        """Number of model outputs per example (or per character)."""
        if self.task == "classification":
            return len(self.classes) or int(self.targets.max()) + 1
        if self.task == "language":
            return len(self.vocabulary)
        return self.targets[0].numel()

    def batches(
        self, batch_size: int, *, examples: int | None = None, seed: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Split the data into batches.

        Args:
            batch_size: examples per batch; the last one may be smaller.
            examples: number of examples to use, from the first; all by default.
            seed: seed for shuffling; None keeps the order (views, without copies).

        Returns:
            Pairs (input, target).

        Raises:
            ArgumentError: a size is below 1, or there are fewer examples.
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
            n: number of examples.

        Returns:
            A view.

        Raises:
            ArgumentError: `n` is below 1 or exceeds the number of examples.
        """
        check_at_least("examples", n, 1)
        if n > len(self):
            raise ArgumentError(
                f"`examples` must be at most {len(self)}, the size of '{self.name}'; got {n}."
            )
        return replace(self, inputs=self.inputs[:n], targets=self.targets[:n])

    def skip(self, n: int) -> "Dataset":
        """All but the first `n` examples: the complement of `take(n)`, as for a test set.

        Args:
            n: number of examples to skip.

        Returns:
            A view.

        Raises:
            ArgumentError: `n` is below 0, or no examples would be left.
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
        """Move the data to a device.

        Args:
            device: the device.

        Returns:
            The same data on the device.

        Raises:
            ArgumentError: there is no such device.
        """
        there = chosen_device(device)
        return replace(self, inputs=self.inputs.to(there), targets=self.targets.to(there))
