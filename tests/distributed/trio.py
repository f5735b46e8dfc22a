"""What three processes check; the last of them is killed at the end."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import distributed

import lossatlas as la
from distributed.faults import fails_in_a_pass
from distributed.pair import sharded
from distributed.problems import CE, batches, network, values
from lossatlas.errors import RankError


def one_share_of_three(rank: int, folder: Path):
    """All data on one process, seven rows over three, and a model that must run on all."""
    held = batches() if rank == 1 else []
    return values(la.Objective(sharded(), CE, held))


def shares_of_three(rank: int, folder: Path):
    objective = la.Objective(network(), CE, batches()[rank::3], group=distributed.group.WORLD)
    return values(objective)


def one_is_killed(rank: int, folder: Path):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    objective = la.Objective(
        model, CE, batches()[rank::3], group=distributed.group.WORLD, in_place=True
    )
    plane = la.random_plane(objective)

    def killed(done, total, label):
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    started = time.monotonic()
    try:
        la.map_plane(objective, plane, points=9, adaptive=False, progress=killed)
    except RankError as failure:
        told = str(failure)
    seconds = time.monotonic() - started
    pairs = zip(model.parameters(), before, strict=True)
    return [told, seconds, all(torch.equal(p, old) for p, old in pairs)]


CHECKS = [one_share_of_three, shares_of_three, fails_in_a_pass, one_is_killed]
