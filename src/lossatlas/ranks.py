"""Distributed evaluation of a loss: sums over all processes, bitwise equal on each."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from lossatlas.errors import ArgumentError, RankError
from lossatlas.memory import is_out_of_memory
from lossatlas.monitored import (
    GONE,
    MonitoredGroup,
    all_reduce,
    failure_of,
    first_sentence,
)
from lossatlas.passes import monitored
from lossatlas.shards import is_sharded
from lossatlas.tracebacks import reason_of

T = TypeVar("T")
# Numbers that are summed at once: a float64 copy of more would not fit beside a large model.
_BLOCK = 1 << 22
# Tensors of a point of which a number is compared between processes, and how closely.
_SAMPLED, _NEAR = 64, 1e-3


class Ranks:
    """The processes of a group of `torch.distributed`.

    All processes must call every method, in the same order.

    Args:
        group: a process group; None is the default one.

    Raises:
        ArgumentError: `group` is not a process group, or this process is not part of it.
    """

    def __init__(self, group: Any = None) -> None:
        spread = torch.distributed
        if not is_initialized():
            raise ArgumentError(
                "`group` needs an initialized process group; call "
                "torch.distributed.init_process_group first, or start with torchrun."
            )
        if isinstance(group, str | int | bool):
            raise ArgumentError(
                "`group` must be a torch.distributed.ProcessGroup, as in "
                f"torch.distributed.group.WORLD; got {group!r}."
            )
        self.group = group
        # The groups in which what `share` runs sends something itself, and whether it does: a
        # process that fails in it must not send anything else, which the others would take for
        # what they wait for.
        self.passes_send, self.monitored_groups = False, list[Any]()
        try:
            self.rank, self.size = spread.get_rank(group), spread.get_world_size(group)
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise ArgumentError(
                "`group` must be an active torch.distributed.ProcessGroup; got "
                f"{type(group).__name__} ({reason_of(error)})."
            ) from None
        if self.rank < 0:
            raise ArgumentError("`group` must contain this process.")

    def gather(self, value: T) -> list[T]:
        """Gather the values of all processes, in the order of ranks."""
        gathered: list[Any] = [None] * self.size
        self._call(torch.distributed.all_gather_object, gathered, value, group=self.group)
        return gathered

    def share(self, call: Callable[[], T], at: Mapping[str, Tensor] | None = None) -> list[T]:
        """Run a function on all processes and gather the results; if one fails, all raise.

        Args:
            call: function to run.
            at: point or vector it is evaluated at, which must be equal on all processes.
                Checked only for a dict: other mappings may gather their tensors one by one.

        Returns:
            The results, in the order of ranks.

        Raises:
            RankError: it failed on another process (RankMemoryError: out of memory), or the
                points differ.
        """
        mine: T | None = None
        error: Exception | None = None
        try:
            with monitored(self.monitored_groups):
                mine = call()
        except Exception as failure:
            # Whatever went wrong here, the others are waiting to be told.
            error = failure
        if error is not None and (self.passes_send or isinstance(error, RankError)):
            raise error
        try:
            reason = None if error is None else (reason_of(error), is_out_of_memory(error))
            numbers = _sample(at) if isinstance(at, dict) and error is None else []
            gathered = self.gather((mine, reason, numbers))
        except RankError:
            if error is None:
                raise
        if error is not None:
            # The others may wait elsewhere, in a pass of a model that needs all of them.
            raise error
        self._check(gathered)
        return [value for value, _, _ in gathered]  # type: ignore[misc]

    def _check(self, gathered: list[tuple[Any, tuple[str, bool] | None, list[float]]]) -> None:
        for rank, (_, reason, numbers) in enumerate(gathered):
            if reason is not None:
                raise failure_of(rank, self.size, *reason)
            if not _alike(gathered[0][2], numbers):
                raise RankError(
                    f"rank 0 and rank {rank} measure at different points or along different "
                    "directions; use the same seed, names and params on all processes."
                )

    def together(self, call: Callable[[], T]) -> T:
        """Result of a function on this process; if it fails on one process, all raise."""
        result: list[T] = []
        self.share(lambda: result.append(call()))
        return result[0]

    def first(self, call: Callable[[], T]) -> T:
        """Result of a function that runs only on the first process."""
        result: T | None = self.share(lambda: call() if self.rank == 0 else None)[0]
        return result  # type: ignore[return-value]

    def add(self, *values: Tensor) -> None:
        """Sum tensors over all processes, in place; in float64 if the device supports it."""
        flat, blocks = self.together(partial(_prepared, values))
        for value, numbers in zip(values, flat, strict=True):
            block = blocks[value.device]
            for start in range(0, numbers.numel(), _BLOCK):
                here = numbers[start : start + _BLOCK]
                part = block[: len(here)].copy_(here)
                self._call(all_reduce, part, self.group)
                here.copy_(part)
            if numbers.data_ptr() != value.data_ptr():
                value.copy_(numbers.view(value.shape))

    def check_same(self, what: str, value: object, remedy: str) -> None:
        """Require equal values on all processes."""
        gathered = self.gather(value)
        for rank, other in enumerate(gathered):
            if other != gathered[0]:
                shown = f": {gathered[0]!r} and {other!r}" if len(repr(other)) < 80 else ""
                raise RankError(
                    f"{what} differ between rank 0 and rank {rank}{shown}; {remedy}"
                )

    def _call(self, function: Callable[..., object], *args: Any, **options: Any) -> None:
        if not self._is_alive:
            # Collectives of a group that was destroyed may still work, on some processes.
            raise RankError(GONE.format("it was destroyed"))
        watched = MonitoredGroup.of(self.group)
        if watched is not None:
            watched.check()
        try:
            function(*args, **options)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, RankError) or is_out_of_memory(error):
                raise
            raise RankError(GONE.format(first_sentence(error))) from error

    @property
    def _is_alive(self) -> bool:
        spread = torch.distributed
        try:
            return bool(spread.get_rank(self.group) == self.rank)
        except (ValueError, RuntimeError, AttributeError):
            return False

    def __getstate__(self) -> dict[str, Any]:
        raise ArgumentError(
            "an objective with `group=` belongs to its processes and cannot be sent to others; "
            'use executor="serial".'
        )


def _prepared(
    values: tuple[Tensor, ...],
) -> tuple[list[Tensor], dict[torch.device, Tensor]]:
    # All memory that sums take, so that none is lacking once the first is sent.
    flat = [v.view(-1) if v.is_contiguous() else v.reshape(-1) for v in values]
    longest: dict[torch.device, int] = {}
    for each in flat:
        longest[each.device] = max(longest.get(each.device, 0), min(each.numel(), _BLOCK))
    wide = {d: torch.float32 if d.type == "mps" else torch.float64 for d in longest}
    blocks = {d: torch.empty(n, dtype=wide[d], device=d) for d, n in longest.items()}
    return flat, blocks


def _sample(params: Mapping[str, Tensor]) -> list[float]:
    # How many numbers there are, and some of them.
    if not params or any(is_sharded(value) for value in params.values()):
        return []
    every = [value.detach() for value in params.values()]
    some = [value for value in every[:: len(every) // _SAMPLED + 1] if value.numel()]
    middle = [value[tuple(size // 2 for size in value.shape)] for value in some]
    numbers = torch.stack([value.float() for value in middle]).tolist() if middle else []
    return [float(sum(value.numel() for value in every)), *numbers]


def _alike(first: list[float], second: list[float]) -> bool:
    # Cards of different kinds round differently.
    if not (first and second):
        return True
    if len(first) != len(second):
        return False
    scale = max((abs(a) for a in first[1:] if math.isfinite(a)), default=0.0)
    near = (
        a == b or math.isnan(a + b) or math.isclose(a, b, rel_tol=_NEAR, abs_tol=_NEAR * scale)
        for a, b in zip(first[1:], second[1:], strict=True)
    )
    return first[0] == second[0] and all(near)


def is_initialized() -> bool:
    """Whether there is a process group."""
    spread = torch.distributed
    return bool(spread.is_available() and spread.is_initialized())


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return torch.distributed.get_world_size() if is_initialized() else 1


def own_rank() -> int:
    """Rank of this process; 0 without a process group."""
    return torch.distributed.get_rank() if is_initialized() else 0


def is_first() -> bool:
    """Whether this is the first process, which writes files."""
    return own_rank() == 0
