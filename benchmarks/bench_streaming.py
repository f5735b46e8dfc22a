"""Streaming: numbers drawn a point, and CPU time over a bare forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import harness
import numpy as np
import subjects
import torch
from harness import Row

import lossatlas as la
from lossatlas.landscape.directions import RandomDirection
from lossatlas.landscape.engines import Engine, Task, build, streaming

# Name, (vocabulary, width, layers, heads), batches, points, copies of the weights free, goal.
_CASES = (
    ("51M parameters", (8000, 512, 15, 8), 1, 5, 2, "<= 2.0 forwards"),
    ("51M parameters", (8000, 512, 15, 8), 1, 5, 7, "<= 2.0 forwards"),
    ("10M parameters", (2000, 256, 12, 4), 4, 10, 2, ""),
    ("10M parameters", (2000, 256, 12, 4), 4, 10, 7, "<= 1.2 forwards"),
    ("tied head, 7M parameters", (50_000, 128, 4, 4), 1, 9, 12, ""),
    ("tied head, 7M parameters", (50_000, 128, 4, 4), 4, 9, 12, ""),
)
_QUICK = (("tied head", (500, 32, 2, 4), 4, 9, 12, ""),)


def rows() -> list[Row]:
    """CPU time on one thread, medians of interleaved rounds; draws are counted.

    Returns:
        Two rows a case.
    """
    return [row for case in (_QUICK if harness.QUICK else _CASES) for row in _case(*case)]


def _case(
    name: str, sizes: tuple[int, ...], batches: int, points: int, free: int, goal: str
) -> Iterator[Row]:
    objective = subjects.language_model(*sizes, batches)
    weights = sum(value.numel() for value in objective.params.values())
    task = Task(objective, la.random_plane(objective, seed=0))
    side = np.linspace(-0.1, 0.1, 4)
    places = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)[:points]

    def ready() -> Engine:
        with patch.object(streaming, "free_memory", lambda _: free * 4 * weights):
            engine = build(task, "streaming")
        engine.look()
        return engine

    def streamed() -> Any:
        # Anew each time: what was drawn before must not be at hand.
        engine, chunk = ready(), engine_chunk
        return [engine.evaluate(places[k : k + chunk])[:, 0] for k in range(0, points, chunk)]

    def bare() -> None:
        with torch.no_grad():
            for batch in objective.batches:
                subjects.sequence_losses(objective.model, batch).sum().item()

    engine_chunk = ready().chunk
    with _counted() as drawn:
        values = np.concatenate(streamed())
    off = float(np.abs(values - build(task, "plain").evaluate(places)[:, 0]).max())
    jobs = {"streamed": streamed, "bare": bare, "look": ready}
    times = harness.interleaved(jobs, rounds=3)
    each = (times["streamed"].median - times["look"].median) / points / times["bare"].median
    what = f"streaming, {name}, {batches} batches, {points} points, {free} copies free"
    note = f"largest difference to the plain loop {off:.0e}; the look at the origin is left out"
    yield Row(f"{what}: CPU time of a point", "", each, unit="forwards", goal=goal, note=note)
    share = sum(drawn) / points / weights
    limit = "<= 1.1 parameters" if free > 2 or batches == 1 else ""
    yield Row(f"{what}: numbers drawn a point", "", share, unit="parameters", goal=limit)


@contextmanager
def _counted() -> Iterator[list[int]]:
    counts: list[int] = []
    normal = RandomDirection._normal

    def counted(self: RandomDirection, *args: Any) -> torch.Tensor:
        block = normal(self, *args)
        counts.append(block.numel())
        return block

    with patch.object(RandomDirection, "_normal", counted):
        yield counts


if __name__ == "__main__":
    for row in rows():
        print(row, row.reached)
