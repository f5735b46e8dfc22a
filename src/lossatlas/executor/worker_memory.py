"""What workers hold in memory, and how many of them fit."""

from dataclasses import dataclass

from lossatlas.errors import ArgumentError
from lossatlas.text import byte_size

# Model and data in a process that starts: as they are read, as bytes, and unpacked.
_PARCELS = 3
# Python, torch and this package in a process of their own (measured: 153 MiB).
PROCESS = 150 * 2**20


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers there will be, and what they hold.

    Attributes:
        count: how many.
        each: bytes that one holds; 0 where the work is done in this process.
        note: that there are fewer than were asked for, and why; empty otherwise.
    """

    count: int = 1
    each: int = 0
    note: str = ""


def worker_bytes(parcel: int, work: int) -> int:
    """What a process holds at the most: while it unpacks a parcel, or works with it."""
    return PROCESS + max(_PARCELS * parcel, parcel + work)


def plan_workers(
    asked: int, parcel: int, work: int, free: int | None, *, fixed: bool, remedy: str
) -> WorkerPlan:
    """As many workers as were asked for, or as the memory holds.

    Args:
        asked: how many.
        parcel: bytes of model and data.
        work: bytes that working takes beside them.
        free: bytes that are free; None where that is not known.
        fixed: whether the user named the number, so that another one is an error.
        remedy: what to write for fewer of them, with a place for the number.

    Returns:
        The plan.

    Raises:
        ArgumentError: the number is fixed and does not fit, or not even one does.
    """
    each = worker_bytes(parcel, work)
    if free is None or asked * each <= free:
        return WorkerPlan(asked, each)
    fitting = free // each
    told = (
        f"{asked} processes hold {byte_size(asked * each)} ({byte_size(each)} each for torch, "
        f"model, data and the work), and {byte_size(free)} are free"
    )
    if fixed or not fitting:
        fewer = remedy.format(fitting) if fitting else "executor='serial'"
        raise ArgumentError(f"`executor`: {told}; use {fewer}.")
    return WorkerPlan(fitting, each, f"{told}: {fitting} of them are used.")
