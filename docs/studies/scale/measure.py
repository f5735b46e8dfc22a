"""Seconds of a map over points, examples, parameters and processes."""

import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F

import lossatlas as la

INPUTS, CLASSES, BATCH = 64, 10, 256
# What grows -> its sizes; the rest stays as in `CASE`.
SIZES = {
    "points": (5, 11, 21, 41, 81),
    "examples": (256, 1024, 4096, 16384, 65536),
    "parameters": (64, 256, 1024, 2048, 4096),
}
QUICK = {"points": (3, 5), "examples": (256, 512), "parameters": (8, 16)}
CASE = {"points": 3, "examples": 256, "parameters": 64}
RANKS = (1, 2)
RANK_EXAMPLES, RANK_POINTS = 65536, 3


def objective(width, batches, group=None):
    """An MLP with two hidden layers, its weights by the one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, CLASSES),
        )
    loss = la.supervised(F.cross_entropy)
    return la.Objective(model, loss, batches, group=group, check=False)


def batches(examples):
    """Random examples, up to 256 in a batch."""
    drawn = torch.Generator().manual_seed(0)
    return [
        (torch.randn(BATCH, INPUTS, generator=drawn), _labels(BATCH, drawn))
        for _ in range(max(1, examples // BATCH))
    ]


def _labels(count, drawn):
    return torch.randint(CLASSES, (count,), generator=drawn)


def seconds(held, points):
    """CPU and wall seconds of one map by every point with the plain loop."""
    plane = la.random_plane(held, seed=0)
    cpu, wall = time.process_time(), time.perf_counter()
    la.map_plane(held, plane, points=points, adaptive=False, engine="plain")
    return time.process_time() - cpu, time.perf_counter() - wall


def grown(sizes, rounds):
    """CPU seconds over every size, the median of rounds that go over all of them."""
    torch.set_num_threads(1)
    found = {what: {} for what in sizes}
    for number in range(rounds + 1):
        for what, each in sizes.items():
            for size in each:
                case = CASE | {what: size}
                held = objective(case["parameters"], batches(case["examples"]))
                spent, _ = seconds(held, case["points"])
                # The first round warms up.
                if number:
                    found[what].setdefault(_size(what, size, held), []).append(spent)
    return {
        what: [[size, median(each)] for size, each in rows.items()]
        for what, rows in found.items()
    }


def _size(what, size, held):
    if what == "parameters":
        return sum(value.numel() for value in held.params.values())
    return size**2 if what == "points" else size


def over_processes(examples, rounds):
    """For 1 and 2 processes: CPU seconds of all, and wall seconds of the slowest.

    Under "each", every process has so many examples; under "all", they share so many.
    """
    return {
        way: [
            [size, *_started(size, examples * (size if way == "each" else 1), rounds)]
            for size in RANKS
        ]
        for way in ("each", "all")
    }


def _started(size, examples, rounds):
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        asked = [(rank, size, examples, rounds, folder) for rank in range(size)]
        members = [context.Process(target=_member, args=each) for each in asked]
        for member in members:
            member.start()
        for member in members:
            member.join()
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
    cpu = median(sum(each) for each in zip(*(rank["cpu"] for rank in found), strict=True))
    wall = median(max(each) for each in zip(*(rank["wall"] for rank in found), strict=True))
    return cpu, wall


def _member(rank, size, examples, rounds, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    group = distributed.group.WORLD
    held = objective(CASE["parameters"], batches(examples)[rank::size], group)
    seconds(held, RANK_POINTS)
    found = [seconds(held, RANK_POINTS) for _ in range(rounds)]
    cpu, wall = zip(*found, strict=True)
    Path(folder, f"{rank}.json").write_text(json.dumps({"cpu": cpu, "wall": wall}))
    distributed.barrier()
    distributed.destroy_process_group()
