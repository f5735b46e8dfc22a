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


def other_derivatives(objective: la.Objective) -> dict:
    """Derivatives beside gradients and products with the Hessian."""
    from lossatlas import curvature

    options = {"top": 1, "bottom": 0, "density": False, "seed": 1}
    kinds = ("gauss_newton", "fisher", "empirical_fisher")
    return {
        **{k: la.spectrum(objective, curvature=k, **options).top.tolist() for k in kinds},
        "noise": [e.value for e in curvature.gradient_noise(objective, probes=2).estimates()],
    }


def other_products(objective: la.Objective) -> dict:
    """Products of one vector with the matrices that are not the Hessian."""
    from lossatlas import curvature

    drawn = generator("distributed", "vector")
    vector = {n: torch.randn(v.shape, generator=drawn) for n, v in objective.params.items()}
    makers = (curvature.gauss_newton, curvature.fisher, curvature.empirical_fisher)
    return {make.__name__: flat(make(objective) @ vector) for make in makers}


def by_batches(objective: la.Objective) -> dict:
    """What reads batches, or examples, one by one."""
    from lossatlas import curvature, weights

    here = {name: value.clone() for name, value in objective.params.items()}
    there = {name: 1.2 * value for name, value in here.items()}
    noise = curvature.gradient_noise(objective, probes=2)
    sharp = curvature.m_sharpness(objective, 2, sets=4)
    curve = curvature.sample_size_curve(
        objective, sizes=(2, 4), directions=2, points=3, orders=3
    )
    conflict = curvature.zero_sum_gradients(objective, folds=2)
    path = weights.connect(objective, here, there, points=3)
    curved = weights.connect(objective, here, there, points=3, kind="bezier", steps=3)
    fisher = weights.window_fisher(objective, window=5)
    factors = weights.factors(objective)
    return {
        "noise": [e.value for e in noise.estimates()],
        "m_sharpness": [sharp.value, sharp.stderr],
        "curve": [e.value for e in curve.estimates()],
        "conflict": [e.value for e in conflict.estimates()],
        "path": [*path.loss, *path.stderr, *path.excess],
        "curved": [*curved.loss],
        "fisher": flat(fisher.diagonal),
        "factors": [e.value for e in factors.estimates()],
        "sensitivity": [
            layer.measured.value for layer in weights.sensitivity(objective, probes=2).layers
        ],
    }


def normalized() -> nn.Sequential:
    """With statistics that are estimated anew at every point."""
    model = network()
    model.insert(1, nn.BatchNorm1d(7))
    return model


def recalibrated(objective: la.Objective) -> dict:
    plane = la.random_plane(objective, seed=3)
    land = la.map_plane(objective, plane, points=3, span=0.5, adaptive=False)
    return {
        "value": objective.value(),
        "map": land.values.ravel().tolist(),
        "gradient": flat(objective.gradient()),
        "top": la.spectrum(objective, top=1, bottom=0, density=False, seed=1).top.tolist(),
    }


def souped(objective: la.Objective) -> dict:
    """An average of networks with statistics of their own, and what those do to its loss."""
    from lossatlas.weights import soup
    from lossatlas.weights.statistics import running_statistics

    here = {name: value.clone() for name, value in objective.model.state_dict().items()}
    there = {n: 1.5 * v if v.is_floating_point() else v for n, v in here.items()}
    made = soup(objective, here, there)
    anew = float(made.notes[-1].partition(" is ")[2].split()[0])
    return {
        "loss": made.loss.value,
        "anew": anew,
        "estimated": flat(running_statistics(objective, there)),
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
