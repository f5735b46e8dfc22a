"""The local learning coefficient: an error of 5 % for an MLP, and accuracy beside devinterp.

Closed forms: a quadratic with 20 curvatures from 1e-3 to 10, and w^4 by quadrature. Both ways
have the same number of gradients, and devinterp 2.0.1 is given our step, because it has no
default. Its mean takes in all steps from the first on, as its `compute_llc` does.
"""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from harness import QUICK, Row, installed, not_installed, once
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import learning_coefficient
from lossatlas.training import build_model, load_dataset

PEER = "devinterp 2.0.1"
EXAMPLES = 1000
BETA = EXAMPLES / math.log(EXAMPLES)
CURVATURES = torch.logspace(-3, 1, 20, dtype=torch.float64)
SHARED = Path(os.environ.get("LOSSATLAS_SHARED", Path(__file__).parents[2] / "shared"))
REPEATS = 3 if QUICK else 6


class Point(nn.Module):
    """Weights whose loss is a function of them, the same for every example."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def rows() -> list[Row]:
    """CPU time on one thread; errors over repeats."""
    return [
        _network(),
        *_beside("quadratic, 20 curvatures", _quadratic, 20, _quadratic_truth(), 100.0),
        *_beside("w^4", _quartic, 1, _quartic_truth(30.0), 30.0),
    ]


def _quadratic(w):
    return (CURVATURES * w * w).sum() / 2


def _quartic(w):
    return (w**4).sum()


def _quadratic_truth():
    return float((BETA * CURVATURES / (BETA * CURVATURES + 100.0)).sum() / 2)


def _quartic_truth(hold):
    x = np.linspace(-3, 3, 20_001)
    density = np.exp(-BETA * x**4 - hold * x * x / 2)
    return float((density * BETA * x**4).sum() / density.sum())


def _network() -> Row:
    """A trained MLP of 27,562 parameters on 2,000 pictures, full batches."""
    file = SHARED / "data" / "mnist" / "train.parquet"
    if not file.exists():
        return Row("MLP 784-32-32-32-10, CPU s for 5 %", goal="<= 60 s", note="no MNIST here")
    data = load_dataset(f"parquet:{file}", examples=2000)
    model = build_model("mlp(32, 32, 32)", data, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        for rows in torch.randperm(2000, generator=draw).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(data.inputs[rows]), data.targets[rows]).backward()
            optimizer.step()
    loss = la.supervised(F.cross_entropy)
    objective = la.Objective(model, loss, [(data.inputs, data.targets)], check=False)
    found, seconds = once(lambda: learning_coefficient(objective, localization=1000.0))
    share = 100 * found.value.stderr / found.value.value
    steps = 4 * (found.draws + found.burn_in)
    return Row(
        "MLP 784-32-32-32-10 (27,562), localization 1,000: CPU s for a stated error of 5 %",
        ours=seconds,
        unit="s",
        goal="<= 60 s" if share <= 5 else "",
        note=f"{found.value}, stated error {share:.1f} %, {steps:,} gradients of 2,000 "
        f"pictures; quadratic twin {found.twin}",
    )


def _beside(what, function, size, truth, hold) -> list[Row]:
    if not installed("devinterp"):
        return [not_installed(Row(f"{what}: bias", PEER, goal=">= 1x"))]
    zeros = torch.zeros(EXAMPLES, dtype=torch.float64)
    ours, theirs, stated, spreads = [], [], [], []
    for seed in range(REPEATS):
        objective = la.Objective(
            Point(size), lambda m, b: function(m.w) + 0 * b, [zeros], check=False
        )
        draws = None if size > 1 else 1500
        found = learning_coefficient(objective, localization=hold, draws=draws, seed=seed)
        chains = _devinterp(
            function, size, hold, found.step, found.draws + found.burn_in, seed=seed
        )
        ours.append(found.value.value)
        stated.append(found.value.stderr)
        theirs.append(float(np.mean(chains)))
        spreads.append(float(np.std(chains)))
    errors = [abs(float(np.mean(each)) - truth) for each in (ours, theirs)]
    roots = [float(np.sqrt(np.mean((np.array(each) - truth) ** 2))) for each in (ours, theirs)]
    scatter = [float(np.std(each, ddof=1)) for each in (ours, theirs)]
    note = f"truth {truth:.3f}; {REPEATS} repeats"
    return [
        Row(f"{what}: bias", PEER, errors[0], errors[1], unit="", goal=">= 1x",
            note=f"{note}; known to ± {scatter[0] / math.sqrt(REPEATS):.2g}"),
        Row(f"{what}: error (root mean square)", PEER, roots[0], roots[1], unit="",
            goal=">= 1x", note=note),
        Row(f"{what}: scatter over repeats", PEER, scatter[0], scatter[1], unit="",
            note=f"stated: {np.mean(stated):.2g}; devinterp's llc_std (over chains) "
            f"{np.mean(spreads):.2g}"),
    ]  # fmt: skip


def _devinterp(function, size, hold, step, steps, *, seed):
    # Their sampler, four chains; the mean over all steps, minus the loss at the start.
    from devinterp.optim.sgld import SGLD

    found = []
    for chain in range(4):
        point, drawn = Point(size), torch.Generator().manual_seed(1000 * seed + chain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = SGLD(point.parameters(), lr=step, localization=hold, nbeta=BETA)
        total = 0.0
        for _ in range(steps):
            loss = function(point.w)
            total += float(loss.detach())
            sampler.zero_grad()
            loss.backward()
            sampler.step(drawn)
        found.append(BETA * total / steps)
    return found
