"""Adaptive intervals between probes beside fixed ones: cost, decisions, and the loss."""

import time
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lossatlas.objective import supervised
from lossatlas.rng import generator
from lossatlas.steering import LandscapeLR, RegimePolicy, sub_batch
from lossatlas.training import load_dataset

STEPS = 1200
KINDS = {
    "every 25": {"interval": 25},
    "25 to 400": {"interval": 25, "max_interval": 400},
    "every 100": {"interval": 100},
}
# Hidden widths, batch size, rate.
PROBLEMS = {
    "digits, mlp(64), 32": ((64,), 32, 0.05),
    "digits, mlp(32, 32), 8": ((32, 32), 8, 0.02),
    "digits, mlp(64), 32, rate x 10": ((64,), 32, 0.5),
}


def network(widths: tuple[int, ...], seed: int) -> nn.Module:
    """A perceptron with weights of a seed."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        sizes, layers = (64, *widths), []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def measure(name: str, kind: str, seed: int) -> dict:
    """One training with `RegimePolicy`."""
    widths, size, rate = PROBLEMS[name]
    data, loss = load_dataset("digits"), supervised(F.cross_entropy)
    model, draw = network(widths, seed), generator("intervals", seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    controller = LandscapeLR(optimizer, RegimePolicy(), **KINDS[kind])
    scales, probing = [], 0.0
    started = time.process_time()
    for _ in range(STEPS):
        rows = torch.randint(1200, (size,), generator=draw)
        batch = data.inputs[rows], data.targets[rows]
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
        due = controller.due(ahead=1)
        before = time.process_time()
        controller.step(sub_batch(model, loss, batch))
        probing += time.process_time() - before if due else 0.0
        scales.append(controller.scales[0])
    total = time.process_time() - started
    with torch.no_grad():
        held = data.inputs[1200:], data.targets[1200:]
        final = float(loss(model, held).mean())
    return {
        "probes": len(controller.log), "share": probing / (total - probing),
        "scales": [float(f"{s:.4g}") for s in scales[::25]], "loss": final,
    }  # fmt: skip


def compared(rows: dict[str, list[dict]], kind: str) -> tuple[float, np.ndarray]:
    """Mean distance of log scales to those of the fixed interval; differences of the loss."""
    first = next(iter(KINDS))
    gaps = [
        np.abs(np.log(a["scales"]) - np.log(b["scales"])).mean()
        for a, b in zip(rows[kind], rows[first], strict=True)
    ]
    losses = np.array([r["loss"] for r in rows[kind]])
    return float(np.mean(gaps)), losses - np.array([r["loss"] for r in rows[first]])
