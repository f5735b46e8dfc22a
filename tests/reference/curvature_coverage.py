"""How often 95 % intervals of curvature instruments hold the truth, by simulation.

Every simulation draws data or seeds anew and asks whether the interval holds a truth that is
known exactly or from far more draws. Each gives name -> (hits, known intervals, draws).
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import (
    average_sharpness,
    frobenius_norm,
    gradient_noise,
    m_sharpness,
    relative_flatness,
    roughness,
    sample_size_curve,
    trace,
)
from lossatlas.curvature.sample_size import _first_below
from lossatlas.linalg.estimators import jackknife, mean_of
from reference import curvature_dense as dense
from reference.curvature_cases import initialized, mlp, normal

MANY = 20_000
# No seed of a draw.
LARGE = 10**6


class Tally:
    """Counts of intervals that hold their truth."""

    def __init__(self):
        self.rows = {}

    def add(self, name, interval, truth):
        low, high = (math.nan if end is None else end for end in interval)
        hits, known, draws = self.rows.get(name, (0, 0, 0))
        finite = not (math.isnan(low) or math.isnan(high))
        hit = finite and low <= truth <= high
        self.rows[name] = (hits + int(hit), known + int(finite), draws + 1)


def classified(count, seed, batches=1, model=None):
    """A small classifier and `count` examples from one population."""
    x = normal(count, 4, seed=3 * seed)
    y = (x[:, 0] + 0.7 * normal(count, seed=3 * seed + 1) > 0).long() + (x[:, 1] > 0.5).long()
    data = list(zip(x.tensor_split(batches), y.tensor_split(batches), strict=True))
    return la.Objective(model or mlp(), la.supervised(F.cross_entropy), data, check=False)


def gradients(objective):
    """The gradient of every example, shape (examples, parameters)."""
    rows = []
    for x, y in objective.batches:
        losses = F.cross_entropy(objective.model(x), y, reduction="none")
        each = torch.eye(len(losses), dtype=losses.dtype)
        points = list(objective.model.parameters())
        parts = torch.autograd.grad(losses, points, each, is_grads_batched=True)
        rows.append(torch.cat([p.reshape(len(x), -1) for p in parts], 1))
    return torch.cat(rows)


def of_gradient_noise(draws, examples=64, batches=1):
    """Length, scatter and noise scale over data drawn anew."""
    truth = gradients(classified(MANY, LARGE, 100))
    mean = truth.mean(0)
    scatter = float((truth - mean).square().sum(1).mean())
    tally = Tally()
    for seed in range(draws):
        found = gradient_noise(classified(examples, seed, batches), seed=seed)
        signal = float(mean.square().sum())
        tally.add("scatter", found.scatter.interval(), scatter)
        tally.add("noise scale", found.noise_scale.interval(), scatter / signal)
        tally.add("length", found.norm.interval(), math.sqrt(signal))
    return tally.rows


def of_traces(draws):
    """Trace, Frobenius norm and relative flatness over probes drawn anew."""
    objective = classified(40, 0)
    matrix = dense.hessian(objective)
    last = [k for k, v in objective.params.items() if v.ndim == 2][-1]
    tally = Tally()
    flat = float(_flatness(objective, last))
    for seed in range(draws):
        found = trace(objective, 0.2, seed=seed, rows=4, limit=60)
        tally.add("trace", found.interval(), float(matrix.trace()))
        norm = frobenius_norm(objective, 0.2, seed=seed, rows=4, limit=60)
        tally.add("Frobenius norm", norm.interval(), float(matrix.norm()))
        bent = relative_flatness(objective, last, tolerance=0.3, limit=40, seed=seed)
        tally.add("relative flatness", bent.interval(), flat)
    return tally.rows


def _flatness(objective, name):
    # sum over rows s, t of <w_s, w_t> tr(H_st)
    weight = objective.params[name]
    start = 0
    for key, value in objective.params.items():
        if key == name:
            break
        start += value.numel()
    rows, columns = weight.shape
    block = dense.hessian(objective)[start : start + weight.numel()][
        :, start : start + weight.numel()
    ].reshape(rows, columns, rows, columns)
    return torch.einsum("sitj,sa,ta,ij->", block, weight, weight, torch.eye(columns).double())


def of_sample_size(draws, points=32, orders=50):
    """The size that suffices, over points and orders drawn anew."""
    objective = classified(200, 0)
    options = {"sizes": list(range(20, 100, 4)), "tolerance": 8e-3, "directions": 3}
    options |= {"points": points, "orders": orders}
    found = [sample_size_curve(objective, seed=seed, **options) for seed in range(draws)]
    curve = np.mean([each.change for each in found], 0)
    truth = _first_below(curve, found[0].sizes, options["tolerance"])
    tally = Tally()
    for each in found:
        high = math.inf if each.enough_high is None else each.enough_high
        tally.add("enough", (each.enough_low, high), truth)
        low, high = each.band
        tally.add("change", (low[-1], high[-1]), curve[-1])
    return tally.rows


def of_roughness(draws, directions=12):
    """Mean and index over lines drawn anew."""
    model = initialized(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    with torch.no_grad():
        model[0].weight.mul_(4)
    objective = classified(20, 0, model=model)
    options = {"points": 9, "radius": 1.0}
    lines = roughness(objective, directions * draws, seed=0, **options).variations
    truth_mean, truth_index = lines.mean(), lines.std() / lines.mean()
    tally = Tally()
    for part in lines.reshape(draws, directions):
        tally.add("mean", mean_of(part).interval(), truth_mean)
        index = jackknife(
            lambda kept, part=part: float(part[kept].std() / part[kept].mean()),
            directions,
            folds=directions,
        )
        tally.add("index", index.interval(), truth_index)
    return tally.rows


def of_sharpness(draws, directions=20, examples=128, size=16):
    """Average sharpness over directions, m-sharpness over data drawn anew."""
    objective = classified(40, 0)
    model = mlp()
    tally = Tally()
    found = [
        average_sharpness(objective, 0.3, directions=directions, seed=s) for s in range(draws)
    ]
    truth = np.mean([each.value for each in found])
    many = m_sharpness(classified(16 * 2000, LARGE, model=model), size, sets=2000).value
    for seed, each in enumerate(found):
        tally.add("average sharpness", each.interval(), truth)
        sets = m_sharpness(classified(examples, seed, model=model), size)
        tally.add("m-sharpness", sets.interval(), many)
    return tally.rows


SIMULATIONS = {
    "gradient noise, 64 examples in one batch": of_gradient_noise,
    "gradient noise, 256 examples in 4 batches": lambda n: of_gradient_noise(n, 256, 4),
    "gradient noise, 600 examples in 30 batches": lambda n: of_gradient_noise(n, 600, 30),
    "traces": of_traces,
    "sample size, 32 points": of_sample_size,
    "sample size, 8 points": lambda n: of_sample_size(n, 8, 10),
    "roughness, 12 lines": of_roughness,
    "roughness, 40 lines": lambda n: of_roughness(n, 40),
    "sharpness": of_sharpness,
}
