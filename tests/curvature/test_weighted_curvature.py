"""Instruments on losses with weights: equal to dense twins, whatever the batches."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas import curvature
from lossatlas.curvature import empirical_fisher, fisher, gauss_newton, gradient_noise
from lossatlas.curvature import hessian as hessian_of


class _Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embed(tokens))).transpose(1, 2)


def _data(n=14, length=5):
    generator = torch.Generator().manual_seed(2)
    model = _Tagger().double()
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 5, (n, length), generator=generator)
    labels = torch.randint(0, 3, (n, length), generator=generator)
    lengths = torch.randint(1, length + 1, (n,), generator=generator)
    labels[torch.arange(length) >= lengths[:, None]] = -100
    return model, tokens, labels


def _both():
    model, x, y = _data()
    loss = la.supervised(F.cross_entropy)
    whole = la.Objective(model, loss, [(x, y)])
    parts = la.Objective(model, loss, [(x[:4], y[:4]), (x[4:], y[4:])])
    return whole, parts, (model, x, y)


INSTRUMENTS = {
    "spectrum": lambda o: curvature.spectrum(o, top=2, bottom=1, density=False).top,
    "relative_flatness": lambda o: curvature.relative_flatness(o).value,
    "trace": lambda o: curvature.trace(o).value,
    "gauss_newton": lambda o: curvature.trace(o, curvature="gauss_newton").value,
    "empirical_fisher": lambda o: curvature.trace(o, curvature="empirical_fisher").value,
    "average_sharpness": lambda o: curvature.average_sharpness(o, directions=3).value,
    "worst_sharpness": lambda o: curvature.worst_sharpness(o, steps=3).rise,
    "roughness": lambda o: curvature.roughness(o, directions=2, points=5).mean.value,
    "samples": lambda o: (
        curvature.sample_size_curve(o, sizes=(2, 4), directions=2, points=3, orders=3).change
    ),
    "noise": lambda o: gradient_noise(o).norm,
    "zero_sum": lambda o: (
        curvature.zero_sum_losses(o, {n: 1.1 * v for n, v in o.params.items()}).change
    ),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_an_instrument_does_not_see_how_data_are_dealt_to_batches(name):
    whole, parts, _ = _both()
    first, second = (INSTRUMENTS[name](objective) for objective in (whole, parts))
    for a, b in zip(_numbers(first), _numbers(second), strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def _numbers(found):
    if hasattr(found, "stderr"):
        return [found.value, found.stderr]
    return list(found) if hasattr(found, "__len__") else [found]


def _pairs(model, x, y):
    def pairs(flat):
        shapes = {n: p.shape for n, p in model.named_parameters()}
        sizes = [s.numel() for s in shapes.values()]
        named = {
            n: part.view(s)
            for (n, s), part in zip(shapes.items(), flat.split(sizes), strict=True)
        }
        logits = functional_call(model, named, (x,))
        sums = F.cross_entropy(logits, y, reduction="none").sum(1)
        return sums, logits

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return pairs, flat, (y != -100).sum(1).double()


def _dense(product):
    eye = torch.eye(product.size, dtype=torch.float64)
    return torch.stack([product.flat(row) for row in eye])


def test_matrices_are_those_of_the_ratio():
    _, parts, (model, x, y) = _both()
    pairs, flat, weights = _pairs(model, x, y)
    total = weights.sum()
    value = lambda w: pairs(w)[0].sum() / total  # noqa: E731
    bends = torch.autograd.functional.hessian
    assert_close(_dense(hessian_of(parts)), bends(value, flat), rtol=1e-8, atol=1e-10)
    rows = jacrev(lambda w: pairs(w)[0])(flat)
    expected = (rows.T / weights) @ rows / total
    assert_close(_dense(empirical_fisher(parts)), expected, rtol=1e-8, atol=1e-10)
    jacobian = jacrev(lambda w: pairs(w)[1].flatten())(flat)
    logits = pairs(flat)[1]
    criterion = lambda z: F.cross_entropy(z.view(logits.shape), y, reduction="sum") / total  # noqa: E731
    middle = bends(criterion, logits.detach().flatten())
    assert_close(
        _dense(gauss_newton(parts)), jacobian.T @ middle @ jacobian, rtol=1e-8, atol=1e-10
    )
    drawn = sum(_dense(fisher(parts, draws=60, seed=k)) for k in range(3)) / 3
    trace = torch.trace(jacobian.T @ middle @ jacobian)
    assert torch.trace(drawn).item() == pytest.approx(trace.item(), rel=0.1)


def test_gradient_noise_is_that_of_influences():
    whole, _, (model, x, y) = _both()
    pairs, flat, weights = _pairs(model, x, y)
    rows = jacrev(lambda w: pairs(w)[0])(flat)
    mean = rows.sum(0) / weights.sum()
    away = (rows - mean * weights[:, None]) / weights.mean()
    n = len(weights)
    found = gradient_noise(whole, probes=400)
    along = away @ mean / mean.norm()
    assert found.norm.value == pytest.approx(mean.norm().item())
    expected = math.sqrt((along**2).sum().item() / (n - 1) / n)
    assert found.norm.stderr == pytest.approx(expected, rel=1e-6)
    scatter = (away**2).sum().item() / (n - 1)
    assert found.scatter.value == pytest.approx(scatter, rel=0.1)


@pytest.mark.parametrize("mode", ["eval", "train", "recalibrated"])
def test_modes_and_loaders_serve_weights(mode):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(24, 4, generator=generator)
    y = torch.randint(0, 3, (24,), generator=generator)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5]))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)
    objective = la.Objective(model, la.supervised(criterion), loader, mode=mode)
    model.train(mode == "train")
    assert objective.unit == "examples"
    pairs = objective.example_pairs()
    assert objective.value() == pytest.approx(float(pairs.sums.sum() / pairs.weights.sum()))
    if mode == "eval":
        with torch.no_grad():
            expected = criterion(model.eval()(x), y).item()
        assert objective.value() == pytest.approx(expected, rel=1e-6)
    slope = objective.gradient()
    step = {n: v + 1e-3 * slope[n] for n, v in objective.params.items()}
    back = {n: v - 1e-3 * slope[n] for n, v in objective.params.items()}
    rise = (objective.value(step) - objective.value(back)) / 2e-3
    length = sum(float(v.double().square().sum()) for v in slope.values())
    if mode != "recalibrated":
        assert rise == pytest.approx(length, rel=2e-2)
    noise = gradient_noise(objective)
    assert noise.unit == ("batches" if mode == "train" else "examples")
