"""Passes of sharded models: code with collectives that succeeds or fails on all processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossatlas.errors import RankError
from lossatlas.monitored import MonitoredGroup, Told, lost_rank
from lossatlas.shards import is_sharded_type

_NAMESPACES = frozenset({"c10d", "_c10d_functional", "_c10d_functional_autograd"})
# What other operations of these namespaces do needs no other process, or not all of them.
_ALL_TAKE_PART = ("all_reduce", "allreduce", "all_gather", "allgather", "reduce_scatter",
                  "all_to_all", "alltoall", "broadcast", "barrier")  # fmt: skip


class _Barriers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Places a barrier before every collective of some groups."""

    def __init__(self, arrive: Callable[[str], None], names: Iterable[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arrive, self._names = arrive, frozenset(names)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Wait before a collective, including those of DTensor operations."""
        if types and any(map(is_sharded_type, types)):
            return NotImplemented
        if getattr(func, "namespace", "") in _NAMESPACES and _takes_all(func.name()):
            for name in self._names.intersection(_group_names(args, kwargs or {})):
                self._arrive(name)
        return func(*args, **(kwargs or {}))


class _Pass:
    """A block of code that all processes leave in the same way: with a result, or an error."""

    def __init__(self, groups: list[MonitoredGroup]) -> None:
        self._open = {group.name: group for group in groups}
        self._told: Told | None = None

    def barriers(self) -> _Barriers:
        return _Barriers(self.arrive, self._open)

    def arrive(self, name: str) -> None:
        # Code of others may catch what it is told, and go on.
        if self._told is None:
            self._told = self._open[name].arrive()
            if self._told is not None:
                del self._open[name]
        if self._told is not None:
            raise self._told.error

    def end(self) -> None:
        for name in list(self._open):
            self.arrive(name)
            del self._open[name]
        if self._told is not None:
            raise self._told.error

    def reason_of_loss(self, error: BaseException) -> Told | None:
        """What a process said before its connection was lost."""
        lost = isinstance(error, RankError) or lost_rank(error) is not None
        if self._told is None and lost:
            for name, group in list(self._open.items()):
                self._told = group.peek()
                if self._told is not None:
                    del self._open[name]
                    return self._told
        return None

    def fail(self, error: BaseException) -> None:
        """Tell it in all groups whose processes are not told yet."""
        failure = Told.of(error) if self._told is None else self._told
        for group in self._open.values():
            group.fail(failure)


_PASSES: list[_Pass] = []


@contextmanager
def monitored(groups: Iterable[Any]) -> Iterator[None]:
    """Run code with collectives of these groups; if it fails on one process, all are informed.

    Every process runs the same code, with the same collectives in the same order. Nested blocks
    are part of the outer one.

    Args:
        groups: process groups; those without a store are not monitored.

    Raises:
        RankError: it failed on another process (RankMemoryError: out of memory).
    """
    each = [] if _PASSES else dict.fromkeys(map(MonitoredGroup.of, groups))
    members = [group for group in each if group is not None]
    if not members:
        yield
        return
    block = _Pass(members)
    _PASSES.append(block)
    try:
        with block.barriers():
            yield
        block.end()
    except BaseException as error:
        failure = block.reason_of_loss(error)
        block.fail(error)
        if failure is not None:
            raise failure.error from error
        raise
    finally:
        _PASSES.pop()


@cache
def _takes_all(name: str) -> bool:
    return any(words in name for words in _ALL_TAKE_PART)


def _group_names(args: Any, options: dict[str, Any]) -> Iterator[str]:
    for value in (*args, *options.values()):
        if isinstance(value, str):
            yield value
        elif isinstance(value, torch.ScriptObject):
            # Reductions are objects of the same kind.
            with suppress(RuntimeError):
                yield str(torch.distributed.ProcessGroup.unbox(value).group_name)
