"""Small networks and data that every process builds alike."""

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator

CE = la.supervised(F.cross_entropy)
# Batches of unequal sizes: shares of two or three processes are uneven.
SIZES = (4, 6, 3)


def network(inner: int = 7) -> nn.Sequential:
    drawn = generator("distributed", "network")
    model = nn.Sequential(nn.Linear(5, inner), nn.Tanh(), nn.Linear(inner, 3))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=drawn))
    return model


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    drawn = generator("distributed", "batches")
    return [
        (torch.randn(size, 5, generator=drawn), torch.randint(0, 3, (size,), generator=drawn))
        for size in SIZES
    ]


def numbers(objective: la.Objective) -> dict:
    """What is compared between processes, and with one process alone."""
    spectrum = la.spectrum(objective, top=1, bottom=0, density=False, seed=1)
    trace = la.trace(objective, limit=24, seed=1)
    return values(objective) | {
        "top": spectrum.top.tolist(),
        "bounds": spectrum.bounds.tolist(),
        "trace": trace.value,
        "trace_error": trace.stderr,
    }


def values(objective: la.Objective) -> dict:
    """Without second derivatives."""
    plane = la.random_plane(objective, seed=3)
    land = la.map_plane(objective, plane, points=5, span=0.5, adaptive=False)
    here = objective.evaluate()
    return {
        "value": here.value,
        "stderr": here.stderr,
        "skewness": here.skewness,
        "samples": here.samples,
        "doubled": objective.value({k: 2 * v for k, v in objective.params.items()}),
        "gradient": flat(objective.gradient()),
        "map": land.values.tolist(),
        "map_stderr": land.stderr.tolist(),
        "leverage": land.leverage.tolist(),
        "engine": land.engine,
        "losses": objective.example_losses().tolist(),
        "unused": list(objective.unused),
        "model": objective.fingerprint()[0],
    }


def flat(params: dict) -> list[float]:
    return torch.cat([value.flatten() for value in params.values()]).tolist()
