"""Processes of one group, started once for many checks, and what each of them found."""

import datetime
import json
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

# How long a process waits for the others before it gives up.
PATIENCE = 60

Check = Callable[[int, Path], Any]


def run(checks: list[Check], size: int, folder: Path) -> list[dict[str, Any]]:
    """What every process found, by the names of the checks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    members = [
        context.Process(target=_member, args=(rank, size, port, checks, str(folder)))
        for rank in range(size)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
    files = [folder / f"{rank}.json" for rank in range(size)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files]


def _member(rank: int, size: int, port: int, checks: list[Check], folder: str) -> None:
    torch.set_num_threads(1)
    # What fails is in the results; what gloo says of lost processes is no news.
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=PATIENCE)
    )
    found: dict[str, Any] = {}
    file = Path(folder) / f"{rank}.json"
    seconds: dict[str, float] = {}
    for check in checks:
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[check.__name__] = check(rank, Path(folder))
            except BaseException:
                found[check.__name__] = {"failed": traceback.format_exc()}
        seconds[check.__name__] = round(time.process_time() - started, 2)
        file.write_text(json.dumps(found | {"seconds": seconds}))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
