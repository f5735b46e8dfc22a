"""The local learning coefficient: an error of 5 % for an MLP, and accuracy beside devinterp.

Closed forms: a quadratic with 20 curvatures from 1e-3 to 10, w^4 and (w1 w2)^2 by quadrature.
Both ways have the same number of gradients and full batches. devinterp's own `llc` runs as it
is: it takes tokens only, so it is handed one short text and, as its `loss_fn`, the closed form,
which ignores the tokens. It has no default step and is given ours. It needs more than
peers.txt: `pip install datasets zarr transformers`. A few runs do not settle whose scatter is
smaller, so both recursions are also run many times in NumPy, without network or peer.
"""

import math
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from harness import QUICK, Row, installed, not_installed, once, silence
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import learning_coefficient
from lossatlas.linalg.chains import mean_of_chains, subtract_control
from lossatlas.training import build_model, load_dataset

PEER = "devinterp 2.0.1"
EXAMPLES = 1000
BETA = EXAMPLES / math.log(EXAMPLES)
CURVATURES = torch.logspace(-3, 1, 20, dtype=torch.float64)
SHARED = Path(os.environ.get("LOSSATLAS_SHARED", Path(__file__).parents[2] / "shared"))
REPEATS = 2 if QUICK else 24
MANY = 20 if QUICK else 1000
CHAINS = 4


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
        *_beside("w^4", _quartic, 1, _line_truth(30.0), 30.0),
        *_beside("(w1 w2)^2", _product, 2, _plane_truth(30.0), 30.0),
        _recursions(
            "quadratic, 20 curvatures", _quadratic_slope, 20, _quadratic_truth(), 100.0
        ),
        _recursions("w^4", _quartic_slope, 1, _line_truth(30.0), 30.0),
        _recursions("(w1 w2)^2", _product_slope, 2, _plane_truth(30.0), 30.0),
    ]


def _quadratic(w):
    return (CURVATURES * w * w).sum() / 2


def _quartic(w):
    return (w**4).sum()


def _product(w):
    return (w[0] * w[1]) ** 2


def _quadratic_slope(w):
    curvatures = CURVATURES.numpy()
    return (curvatures * w * w).sum(-1) / 2, curvatures * w


def _quartic_slope(w):
    return (w**4).sum(-1), 4 * w**3


def _product_slope(w):
    return w.prod(-1) ** 2, 2 * w * np.square(w[..., ::-1])


def _quadratic_truth():
    return float((BETA * CURVATURES / (BETA * CURVATURES + 100.0)).sum() / 2)


def _line_truth(hold):
    x = np.linspace(-3, 3, 20_001)
    return _mean_rise(BETA * x**4, x * x, hold)


def _plane_truth(hold):
    x, y = np.meshgrid(*[np.linspace(-3, 3, 3001)] * 2)
    return _mean_rise(BETA * (x * y) ** 2, x * x + y * y, hold)


def _mean_rise(energy, squares, hold):
    density = np.exp(-energy - hold * squares / 2)
    return float((density * energy).sum() / density.sum())


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
    if not all(map(installed, ("devinterp", "datasets", "zarr", "transformers"))):
        return [not_installed(Row(f"{what}: bias", PEER, goal=">= 1x"))]
    found = [_ours(function, size, hold, seed) for seed in range(REPEATS)]
    steps = [(each.step, each.draws + each.burn_in) for each in found]
    ours = np.array([each.value.value for each in found])
    theirs, spreads = np.array(
        [_devinterp(function, size, hold, *steps[seed], seed=seed) for seed in range(REPEATS)]
    ).T
    bias = [abs(float(each.mean()) - truth) for each in (ours, theirs)]
    root = [float(np.sqrt(np.square(each - truth).mean())) for each in (ours, theirs)]
    scatter = [float(each.std(ddof=1)) for each in (ours, theirs)]
    stated = float(np.mean([each.value.stderr for each in found]))
    note = f"truth {truth:.4f}; {REPEATS} repeats of {CHAINS} chains of {steps[0][1]:,} steps"
    known = [each / math.sqrt(REPEATS) for each in scatter]
    return [
        Row(f"{what}: bias", PEER, bias[0], bias[1], unit="", goal=">= 1x",
            note=f"{note}; means {ours.mean():.4f} ± {known[0]:.4f} and {theirs.mean():.4f} "
            f"± {known[1]:.4f}"),
        Row(f"{what}: scatter over repeats", PEER, scatter[0], scatter[1], unit="",
            note=f"stated: {stated:.2g}; devinterp's llc_std {spreads.mean():.2g}"),
        Row(f"{what}: error (root mean square)", PEER, root[0], root[1], unit="",
            goal=">= 1x", note=note),
    ]  # fmt: skip


def _recursions(what, slope, size, truth, hold) -> Row:
    # Steps of the instrument on these forms (it looks for the curvature that chains meet).
    step = {20: 0.4 / (BETA * 10 + hold), 1: 0.004, 2: 0.006}[size]
    slowest = 1 / (step * hold)
    burn_in, kept = math.ceil(5 * slowest), math.ceil(50 * slowest) if size > 2 else 1500
    ours = _our_chains(slope, size, hold, step, burn_in, kept)
    theirs = _plain_chains(slope, size, hold, step, burn_in + kept)
    ours = ours[np.isfinite(ours)]
    scatter = [float(each.std(ddof=1)) for each in (ours, theirs)]
    means = [f"{x.mean():.4f} ± {x.std() / math.sqrt(len(x)):.4f}" for x in (ours, theirs)]
    ratio, known = scatter[1] / scatter[0], 1.96 / math.sqrt(MANY)
    return Row(
        f"{what}: scatter, both recursions {MANY:,} times",
        "the recursion of devinterp",
        *scatter,
        unit="",
        goal=">= 1x",
        note=f"truth {truth:.4f}, means {means[0]} and {means[1]}; 95 % interval of the ratio "
        f"{ratio * math.exp(-known):.2f} to {ratio * math.exp(known):.2f}; {CHAINS} chains of "
        f"{burn_in + kept:,} steps",
    )


def _our_chains(slope, size, hold, step, burn_in, kept):
    rng, point = np.random.default_rng(0), np.zeros((MANY, CHAINS, size))
    rows = np.empty((2, MANY, CHAINS, kept))
    for index in range(burn_in + kept):
        kick = math.sqrt(step) / 2 * rng.standard_normal(point.shape)
        point = point + kick
        loss, gradient = slope(point)
        drift = BETA * gradient + hold * point
        if index >= burn_in:
            rows[..., index - burn_in] = BETA * loss, (point * drift).sum(-1) - size
        point = point - step / 2 * drift + kick
    pairs = zip(*rows, strict=True)
    return np.array([mean_of_chains(*subtract_control(*each))[0].value for each in pairs])


def _plain_chains(slope, size, hold, step, steps):
    rng, point = np.random.default_rng(1), np.zeros((MANY, CHAINS, size))
    total = np.zeros(MANY)
    for _ in range(steps):
        loss, gradient = slope(point)
        total += BETA * loss.mean(1) / steps
        kick = math.sqrt(step) * rng.standard_normal(point.shape)
        point = point - step / 2 * (BETA * gradient + hold * point) + kick
    return total


def _ours(function, size, hold, seed):
    zeros = torch.zeros(EXAMPLES, dtype=torch.float64)
    objective = la.Objective(
        Point(size), lambda m, b: function(m.w) + 0 * b, [zeros], check=False
    )
    draws = None if size > 2 else 1500
    return learning_coefficient(objective, localization=hold, draws=draws, seed=seed)


def _devinterp(function, size, hold, step, steps, *, seed):
    # Its mean takes in every step from the first on, burn-in or not.
    from datasets import Dataset
    from devinterp.slt.llc import llc

    text = Dataset.from_dict({"input_ids": [[0, 0]]}).with_format("torch")

    def loss(model, tokens):
        return function(model.w).expand(len(tokens), tokens.shape[1] - 1)

    with silence(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        found = llc(
            Point(size), text, {}, lr=step, n_beta=BETA, loss_fn=loss, localization=hold,
            num_chains=CHAINS, num_draws=steps, batch_size=1, num_init_loss_batches=1,
            init_seed=1000 * seed, device="cpu", output_path=Path(folder) / "samples",
        )  # fmt: skip
        return float(found.llc_mean), float(found.llc_std)
