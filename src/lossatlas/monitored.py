"""Collectives that all processes of a group enter, or none, with failures reported to all.

If a process fails in a pass of a sharded model, it never enters the collective that the others
wait in, and only the timeout of the group ends that wait. Each collective therefore follows a
barrier through the store of the group, as in `torch.distributed.monitored_barrier`: a failed
process answers the next barrier with its reason instead of arriving.
"""

import json
import os
import time
import weakref
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossatlas.errors import RankError, RankMemoryError
from lossatlas.memory import is_out_of_memory
from lossatlas.shards import is_gone
from lossatlas.tracebacks import reason_of

GONE = (
    "a process of the group ended or did not answer within the timeout of the group ({}); "
    "check the output of the other processes, and restart all of them."
)
# Seconds after which a process that waits looks whether the others still run.
_LOOK = 1.0
# Seconds between two questions to the store, at first and at most.
_PAUSES = 5e-5, 0.02
# What a process that failed counts as: more than all that arrive.
_FAILED = 1 << 32


@dataclass(frozen=True)
class Told:
    """Which process failed, and why; `rank` is negative if unknown."""

    rank: int
    size: int
    reason: str
    of_memory: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Told":
        """What this process has to say."""
        spread = torch.distributed
        place = spread.get_rank(), spread.get_world_size()
        return cls(*place, reason_of(error), is_out_of_memory(error))

    @property
    def error(self) -> RankError:
        """What all other processes raise."""
        if self.rank < 0:
            return RankError(GONE.format(self.reason))
        return failure_of(self.rank, self.size, self.reason, self.of_memory)


_MONITORED: weakref.WeakKeyDictionary[Any, "MonitoredGroup"] = weakref.WeakKeyDictionary()


def failure_of(rank: int, size: int, reason: str, of_memory: bool) -> RankError:
    """The error that all other processes raise where one has failed."""
    return (RankMemoryError if of_memory else RankError)(
        f"rank {rank} of {size} failed ({reason}), so no rank has the number; fix it there and "
        "restart all processes."
    )


class MonitoredGroup:
    """The barriers of one process group, numbered equally on all processes.

    Args:
        group: of `torch.distributed`.
    """

    def __init__(self, group: Any) -> None:
        spread = torch.distributed
        self.rank, self.size = spread.get_rank(group), spread.get_world_size(group)
        self.name = str(group.group_name)
        # Groups of one dimension of a mesh may have one name, and one store.
        members = "-".join(map(str, spread.get_process_group_ranks(group)))
        store = _own_connection(_store_of(group))
        self._store = spread.PrefixStore(f"lossatlas/{members}", store)  # type: ignore[attr-defined]
        self._limit, self._count, self._forgotten = _time_limit(group), 0, 0
        self._broken: Told | None = None
        self._store.set(f"process/{self.rank}", _process())

    @classmethod
    def of(cls, group: Any) -> "MonitoredGroup | None":
        """That of a group; None where there is nobody to wait for, or no store."""
        group = torch.distributed.group.WORLD if group is None else group
        if torch.distributed.get_world_size(group) < 2 or _store_of(group) is None:
            return None
        if group not in _MONITORED:
            _MONITORED[group] = cls(group)
        return _MONITORED[group]

    def arrive(self) -> Told | None:
        """Wait until all processes have arrived; return the report of a failed one."""
        self._count += 1
        try:
            failed = self._wait(f"{self._count}/arrived")
            if failed:
                return Told(*json.loads(self._store.get(f"{self._count}/reason")))
        except RuntimeError as error:
            return Told(-1, self.size, first_sentence(error))
        return None

    def fail(self, told: Told) -> None:
        """Answer the next barrier with the local failure, without waiting."""
        self._count += 1
        # Where the store is gone as well, the others find that out by themselves.
        with suppress(RuntimeError):
            self._store.set(f"{self._count}/reason", json.dumps(astuple(told)))
            self._store.add(f"{self._count}/arrived", _FAILED)

    def peek(self) -> Told | None:
        """Report of a failed process at the next barrier, without waiting for it."""
        key = f"{self._count + 1}/reason"
        with suppress(RuntimeError):
            if self._store.check([key]):
                self._count += 1
                return Told(*json.loads(self._store.get(key)))
        return None

    def tell(self, error: BaseException) -> None:
        """Report that a collective failed on this process."""
        self._broken = Told.of(error)
        with suppress(RuntimeError):
            self._store.set("broken", json.dumps(astuple(self._broken)))

    def check(self) -> None:
        """Raise a RankError if this process knows of a failed collective."""
        if self._broken is not None:
            raise self._broken.error

    def listen(self) -> None:
        """The same, after checking reports of the other processes."""
        if self._broken is None and self._store.check(["broken"]):
            self._broken = Told(*json.loads(self._store.get("broken")))
        self.check()

    def _wait(self, key: str) -> bool:
        # Whether a process failed. The store counts those who arrive, and is asked in one
        # exchange; its own way to wait takes several, and logs every second without an answer.
        arrived, pause, began = self._store.add(key, 1), _PAUSES[0], time.monotonic()
        if arrived == self.size:
            self._forget()
        looked = began
        while arrived < self.size:
            time.sleep(pause)
            pause, now = min(2 * pause, _PAUSES[1]), time.monotonic()
            arrived = self._store.add(key, 0)
            if arrived < self.size and now - looked > _LOOK:
                self._look(now - began)
                looked = now
        return bool(arrived >= _FAILED)

    def _look(self, waited: float) -> None:
        lost = next(filter(self._is_lost, range(self.size)), None)
        if lost is not None:
            raise RuntimeError(f"rank {lost} no longer runs")
        if waited > self._limit:
            raise RuntimeError(f"waited {waited:.0f} s")

    def _forget(self) -> None:
        # All have come to the present barrier, so all have left those before.
        with suppress(RuntimeError):
            for place in range(self._forgotten + 1, self._count):
                self._store.delete_key(f"{place}/arrived")
        self._forgotten = self._count - 1

    def _is_lost(self, rank: int) -> bool:
        key = f"process/{rank}"
        if not self._store.check([key]):
            return False
        machine, process, since = json.loads(self._store.get(key))
        is_local = machine and machine == _machine()
        return bool(is_local and since and _started(process) != since)


def all_reduce(value: Tensor, group: Any) -> None:
    """Sum a tensor over a group, in place; a failure is reported to waiting processes."""
    spread, watched = torch.distributed, MonitoredGroup.of(group)
    if watched is None or value.device.type != "cpu":
        # A stream waits on a card, and no process does.
        spread.all_reduce(value, group=group)
        return
    watched.check()
    try:
        work = spread.all_reduce(value, group=group, async_op=True)
    except Exception as error:
        watched.tell(error)
        raise
    while not _is_done(work):
        watched.listen()


def _is_done(work: Any) -> bool:
    try:
        work.wait(timedelta(seconds=_LOOK))
    except RuntimeError:
        if work.is_completed():
            raise
        return False
    return True


def lost_rank(error: BaseException | None) -> RankError | None:
    """Convert the error of a failed collective in third-party code; None for other errors."""
    while error is not None:
        kind = type(error).__name__
        if kind.startswith("Dist") and kind.endswith("Error"):
            return RankError(GONE.format(first_sentence(error)))
        if isinstance(error, RuntimeError) and ("gloo" in str(error) or is_gone(error)):
            return RankError(GONE.format(first_sentence(error)))
        error = error.__cause__
    return None


def first_sentence(error: BaseException) -> str:
    """First sentence of torch's error for a failed collective."""
    # What follows the first sentence is advice for those who call the collective themselves.
    return reason_of(error).partition(". ")[0]


def _store_of(group: Any) -> Any:
    # torch before 2.9 keeps it in a table alone.
    world = getattr(torch.distributed.distributed_c10d, "_world", None)
    _, store = world.pg_map.get(group, ("", None)) if world is not None else ("", None)
    return store


def _own_connection(store: Any) -> Any:
    # A connection serves one call at a time, and NCCL's watchdog needs its own meanwhile.
    inner = store
    while hasattr(inner, "underlying_store"):
        inner = inner.underlying_store
    can = type(inner).__name__ == "TCPStore" and hasattr(store, "clone")
    return store.clone() if can else store


def _time_limit(group: Any) -> float:
    for kind in ("cpu", "cuda"):
        with suppress(RuntimeError, AttributeError):
            limit: timedelta = group._get_backend(torch.device(kind)).options._timeout
            return limit.total_seconds()
    return torch.distributed.distributed_c10d.default_pg_timeout.total_seconds()


@cache
def _machine() -> str:
    # Process numbers mean the same within one namespace of one run of one machine.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process() -> str:
    return json.dumps([_machine(), os.getpid(), _started(os.getpid())])


def _started(process: int) -> str:
    # When a process was started; empty where it is gone, or dead and not yet buried.
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
