"""Commands that torchrun starts several times: one group, of which the first process writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lossatlas.errors import ArgumentError

# How long a process waits for the others.
_MINUTES = 10


def process_count() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return process_count() == 1 or int(os.environ["RANK"]) == 0


def check_alone(command: str) -> None:
    """Refuse several processes that would all do the same and write the same files."""
    if process_count() > 1:
        raise ArgumentError(
            f"`{command}` runs in one process, and torchrun started {process_count()}; only "
            "`survey` shares its data between processes."
        )


@contextmanager
def joined() -> Iterator[None]:
    """The group of all processes that torchrun started, while the block runs."""
    if process_count() == 1:
        yield
        return
    from datetime import timedelta

    import torch

    if torch.distributed.is_initialized():
        yield
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=timedelta(minutes=_MINUTES)
    )
    try:
        yield
        # None leaves while others still talk to it.
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
