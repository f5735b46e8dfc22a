"""Memory of workers, and how many of them fit."""

from dataclasses import dataclass

from lossatlas.errors import ArgumentError
from lossatlas.text import byte_size

# Model and data in a process that starts: as they are read, as bytes, and unpacked.
_PARCELS = 3
# Python, torch and this package in a process of their own (measured: 153 MiB).
PROCESS = 150 * 2**20


@dataclass(frozen=True)
class WorkerPlan:
    """Number of workers and their memory.

    Attributes:
        count: number of workers.
        each: bytes per worker; 0 if the work runs in this process.
        note: why there are fewer than requested; empty otherwise.
    """

    count: int = 1
    each: int = 0
    note: str = ""


def worker_bytes(parcel: int, work: int) -> int:
    """Peak memory of a worker: while it unpacks a parcel, or works with it."""
    return PROCESS + max(_PARCELS * parcel, parcel + work)


def plan_workers(
    asked: int, parcel: int, work: int, free: int | None, *, fixed: bool, remedy: str
) -> WorkerPlan:
    """Plan as many workers as requested, or as fit in memory.

    Args:
        asked: requested number.
        parcel: bytes of model and data.
        work: bytes that working takes beside them.
        free: free bytes; None if unknown.
        fixed: whether the user chose the number, so that reducing it is an error.
        remedy: code that reduces the number, with a placeholder for it.

    Returns:
        The plan.

    Raises:
        ArgumentError: the number is fixed and does not fit, or not even one does.
    """
    each = worker_bytes(parcel, work)
    if free is None or asked * each <= free:
        return WorkerPlan(asked, each)
    fitting = free // each
    need = (
        f"{asked} processes need {byte_size(asked * each)} ({byte_size(each)} each for torch, "
        f"model, data and the work), but only {byte_size(free)} are free"
    )
    if fixed or not fitting:
        fewer = remedy.format(fitting) if fitting else "executor='serial'"
        raise ArgumentError(f"`executor`: {need}; use {fewer}.")
    return WorkerPlan(fitting, each, f"{need}: {fitting} of them are used.")
