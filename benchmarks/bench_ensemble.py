"""Twenty small networks trained at once, against the same networks one after another."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.ensemble import train_ensemble
from lossatlas.training.models import build_model
from lossatlas.training.seeding import epoch_order

ROUNDS = 5


def rows() -> list[dict[str, Any]]:
    """CPU time, medians of interleaved rounds, one thread.

    Returns:
        One row a comparison.
    """
    data = load_dataset("digits", examples=1536)
    return [
        _row(
            "20 networks 64-64-10, digits, batch 32, 2 epochs", data, 20, "mlp(64)", 2, ">= 5x"
        ),
        _row(
            "100 networks 64-64-10, digits, batch 32, 1 epoch",
            data,
            100,
            "mlp(64)",
            1,
            ">= 10x",
        ),
        _row(
            "10 CNNs with BatchNorm, digits, batch 32, 8 steps",
            data.take(256),
            10,
            "cnn",
            1,
            "",
        ),
    ]


def _row(
    what: str, data: Dataset, members: int, spec: str, epochs: int, goal: str
) -> dict[str, Any]:
    models = [build_model(spec, data, seed=seed) for seed in range(members)]
    initial = [{n: p.detach().clone() for n, p in m.named_parameters()} for m in models]
    orders = range(members)

    def ours() -> None:
        train_ensemble(models[0], data, initial=initial, orders=orders, epochs=epochs, lr=0.05)

    def peer() -> None:
        for seed, (model, start) in enumerate(zip(models, initial, strict=True)):
            with torch.no_grad():
                for name, value in model.named_parameters():
                    value.copy_(start[name])
            _plain_training(model, data, seed, epochs)

    ours_ms, peer_ms = _interleaved(ours, peer)
    return {
        "what": what,
        "peer": "plain torch loop, one after another",
        "ours_ms": ours_ms,
        "peer_ms": peer_ms,
        "ratio": peer_ms / ours_ms,
        "goal": goal,
    }


def _plain_training(model: nn.Module, data: Dataset, seed: int, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for epoch in range(epochs):
        for rows in epoch_order(seed, epoch, len(data)).split(32):
            loss = F.cross_entropy(model(data.inputs[rows]), data.targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def _interleaved(*jobs: Callable[[], None]) -> list[float]:
    """The median CPU time of each job, in ms, after one untimed round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(ROUNDS + 1):
        for job, taken in zip(jobs, times, strict=True):
            began = time.process_time()
            job()
            if turn:
                taken.append(1000 * (time.process_time() - began))
    torch.set_num_threads(threads)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    for row in rows():
        print(row)
