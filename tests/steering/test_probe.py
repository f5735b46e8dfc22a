import copy
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, LossError
from lossatlas.objective import supervised
from lossatlas.rng import generator
from lossatlas.steering.probe import ProbeGrid, probe_losses, read_losses, read_probe, sub_batch
from lossatlas.steering.signals import read_edge
from reference.steering_probe import indicators, total_persistence


class Everything(nn.Module):
    """BatchNorm with one layer frozen in eval, dropout, a frozen weight, channels last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.frozen_norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.still = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x):
        h = self.drop(self.frozen_norm(self.norm(self.conv(x))).relu()).mean((2, 3))
        return self.still(self.head(h))


def case():
    model = Everything()
    model.frozen_norm.eval()
    x = torch.randn(8, 2, 6, 6, generator=generator(1))
    y = torch.randint(0, 3, (8,), generator=generator(2))
    return model, (x, y)


def record(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {n: (t.data_ptr(), t.stride(), t.dtype, t.requires_grad) for n, t in tensors.items()},
        {n: t.detach().clone() for n, t in tensors.items()},
        {n: None if t.grad is None else t.grad.clone() for n, t in tensors.items()},
        [m.training for m in model.modules()],
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("fails", [None, 0, 5])
def test_no_trace_is_left(known, fails):
    model, (x, y) = case()
    F.cross_entropy(model(x), y).backward()
    before, calls = record(model), []

    def closure():
        calls.append(0)
        torch.rand(3), np.random.rand(3), random.random()
        model.still.train()
        value = F.cross_entropy(model(x), y)
        if fails is not None and len(calls) > fails:
            raise RuntimeError("out of luck")
        return value

    def read():
        return read_probe(closure, model.parameters(), model=model if known else None)

    if fails is None:
        assert math.isfinite(read().loss.value)
    else:
        with pytest.raises(RuntimeError, match="out of luck"):
            read()
    after = record(model)
    assert all(same(a, b) for a, b in zip(before, after, strict=True))


def seen_weights(model, **settings):
    seen = []

    def closure():
        seen.append([p.detach().clone() for p in model.parameters()])
        return torch.zeros(())

    patch = ProbeGrid(**settings)
    probe_losses(closure, model.parameters(), patch)
    return seen, patch


def test_points_are_mirrored_and_of_the_filters_size():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5)).double()
    seen, patch = seen_weights(model, pairs=3)
    center = seen[0]
    assert len(seen) == len(patch.points) == 15
    for plus, minus in zip(seen[1::2], seen[2::2], strict=True):
        for a, b, c in zip(plus, minus, center, strict=True):
            assert_close(a + b, 2 * c)
    for a, c in zip(seen[1], center, strict=True):
        move = (a - c).flatten(1).norm(dim=1) if c.ndim > 1 else a - c
        size = c.flatten(1).norm(dim=1) * patch.step if c.ndim > 1 else torch.zeros_like(c)
        assert_close(move, size)


def test_the_same_seed_looks_the_same_way_and_another_does_not():
    model = nn.Linear(4, 5)
    first, again, other = (seen_weights(model, seed=s)[0][1][0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_slopes_cancel_and_bowls_are_met_exactly():
    w = torch.randn(4, 3, generator=generator(3), dtype=torch.float64).requires_grad_()
    slope = torch.randn(4, 3, generator=generator(4), dtype=torch.float64)
    straight = read_probe(lambda: (slope * w).sum() + 100.0, [w])
    assert straight.sharpness.value == pytest.approx(0.0, abs=1e-12)
    assert straight.persistence.value == 0
    bowl = read_probe(lambda: 1.0 + w.square().sum(), [w])
    size = w.detach().square().sum().item()
    # Eight neighbors: four at one step, four at the diagonal; axes of unit size each.
    directions = [m[0] - w.detach() for m in _moves(w)]
    truth = np.mean([(w.detach() + d).square().sum().item() for d in directions]) - size
    assert bowl.sharpness.value == pytest.approx(truth / (1 + size), rel=1e-6)


def _moves(w):
    seen = []

    def closure():
        seen.append([w.detach().clone()])
        return torch.zeros(())

    probe_losses(closure, [w], ProbeGrid())
    return seen[1:9]


@given(st.integers(0, 1000))
def test_indicators_are_their_definitions(seed):
    patch = ProbeGrid(pairs=3)
    losses = np.random.default_rng(seed).uniform(0.5, 2.0, len(patch.points))
    got = read_losses(patch, losses)
    sharpness, variability = indicators(losses)
    total, _ = total_persistence(losses, patch.edges.tolist())
    assert got.loss.value == losses[0]
    assert got.sharpness.value == pytest.approx(sharpness)
    assert got.variability.value == pytest.approx(variability)
    assert got.persistence.value == pytest.approx(total)
    assert got.sharpness.stderr > 0
    assert got.variability.stderr > 0
    assert math.isnan(got.persistence.stderr)
    assert got.bars == 0


def test_errors_of_examples_are_those_of_sampling_them():
    patch = ProbeGrid(pairs=2)
    drawn = np.random.default_rng(0)
    x, y = patch.points.T / patch.step
    field = 1 + 0.2 * (x**2 - 1) ** 2 / (1 + np.abs(x)) + 0.1 * y**2

    def sample():
        scale = drawn.normal(1, 0.3, 400)
        tilt = drawn.normal(0, 0.1, 400)
        return field[:, None] * scale + tilt * x[:, None] + drawn.normal(0, 0.05, (len(x), 400))

    readings = [read_losses(patch, sample()) for _ in range(300)]
    for name in ("loss", "sharpness", "variability", "persistence"):
        values = [getattr(r, name).value for r in readings]
        errors = [getattr(r, name).stderr for r in readings]
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_a_second_basin_is_certain_where_examples_agree():
    patch = ProbeGrid(pairs=0)
    x = patch.points[:, 0] / patch.step
    field = (x**2 - 1) ** 2 + 0.3 * x
    noise = np.random.default_rng(0).normal(0, 0.01, (9, 200))
    got = read_losses(patch, field[:, None] + noise)
    assert got.bars == 1
    assert got.persistence.value == pytest.approx(0.7, abs=0.05)
    hidden = np.random.default_rng(0).normal(0, 50, (9, 200))
    assert read_losses(patch, field[:, None] + hidden).bars <= 1


def test_all_points_see_the_same_dropout():
    drop, w = nn.Dropout(0.5), torch.ones(2, 2, requires_grad=True)
    x = torch.randn(50, generator=generator(0))
    losses = probe_losses(lambda: drop(x).sum(), [w], ProbeGrid())
    assert len(set(losses.tolist())) == 1


def test_autocast_does_not_go_on_with_old_weights():
    layer = nn.Linear(8, 8)
    x = torch.randn(4, 8, generator=generator(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = probe_losses(
            lambda: layer(x).float().square().mean(), layer.parameters(), ProbeGrid()
        )
    assert len(set(inside.tolist())) > 5
    plain = probe_losses(lambda: layer(x).square().mean(), layer.parameters(), ProbeGrid())
    assert_close(torch.tensor(inside), torch.tensor(plain), rtol=0.05, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_come_back_bit_for_bit(dtype):
    layer = nn.Linear(5, 5).to(dtype)
    before = copy.deepcopy(layer.state_dict())
    x = torch.ones(1, 5, dtype=dtype)
    assert read_probe(lambda: layer(x).square().sum(), layer.parameters()).loss.value > 0
    assert all(torch.equal(v, before[n]) for n, v in layer.state_dict().items())


def test_compiled_models_and_their_statistics():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(8, 3)
    compiled(x)
    before = copy.deepcopy(model.state_dict())
    got = read_probe(lambda: compiled(x).square().mean(), compiled.parameters())
    assert got.variability.value > 0
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_loss_that_is_not_finite_is_a_reading():
    w = torch.ones(2, 2, requires_grad=True)
    got = read_probe(lambda: w.sum() * math.nan, [w])
    assert math.isnan(got.loss.value)
    assert math.isnan(got.sharpness.value)


def test_sub_batches_give_the_losses_of_examples():
    model, (x, y) = case()
    model.eval()
    closure = sub_batch(model, supervised(F.cross_entropy), (x, y), 5)
    assert_close(closure(), F.cross_entropy(model(x[:5]), y[:5], reduction="none"))
    plain = sub_batch(model, lambda m, b: m(b["x"]).mean(), {"x": x, "y": y}, 5)
    assert_close(plain(), model(x[:5]).mean())
    got = read_probe(closure, model.parameters())
    assert got.loss.stderr > 0
    assert got.persistence.stderr >= 0 or got.persistence.value == 0


def test_a_patch_without_a_bar_has_an_unknown_error_of_persistence():
    patch = ProbeGrid(pairs=3)
    bowl = (patch.points**2).sum(1)[:, None] + np.random.default_rng(0).normal(size=20) / 1e9
    got = read_losses(patch, bowl)
    assert got.persistence.value == 0
    assert math.isnan(got.persistence.stderr)
    assert got.loss.stderr > 0


def test_vectors_alone_have_no_patch_but_a_loss():
    w = torch.ones(3, requires_grad=True)
    assert read_probe(w.sum, [w]).variability.value == 0


def test_bad_closures_are_named():
    w = torch.ones(2, 2, requires_grad=True)
    with pytest.raises(ArgumentError, match="`closure` must be a function"):
        read_probe(3.0, [w])
    with pytest.raises(LossError, match="one number an example"):
        read_probe(lambda: torch.zeros(2, 2), [w])
    shapes = iter([(), *[(3,)] * 30])
    with pytest.raises(LossError, match="one shape"):
        read_probe(lambda: torch.zeros(next(shapes)), [w])
    with pytest.raises(ArgumentError, match="requires a gradient"):
        read_probe(lambda: 1.0, [w.detach()])
    with pytest.raises(ArgumentError, match="step"):
        ProbeGrid(step=0.0)


# The edge


def hessian_of(layer, x, y, optimizer):
    flat = torch.cat([p.detach().flatten() for p in layer.parameters()])
    names = [n for n, _ in layer.named_parameters()]
    sizes = [p.numel() for p in layer.parameters()]
    shapes = [p.shape for p in layer.parameters()]

    def loss(v):
        parts = [a.view(s) for a, s in zip(v.split(sizes), shapes, strict=True)]
        out = torch.func.functional_call(layer, dict(zip(names, parts, strict=True)), (x,))
        return F.cross_entropy(out, y)

    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("adam", [False, True])
def test_the_edge_is_rate_times_the_largest_eigenvalue(adam):
    layer = nn.Linear(3, 2).double()
    x = torch.randn(20, 3, generator=generator(0), dtype=torch.float64)
    y = torch.randint(0, 2, (20,), generator=generator(1))
    groups = [{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.4}]
    optimizer = torch.optim.AdamW(groups) if adam else torch.optim.SGD(groups, lr=0.1)
    scale = torch.tensor([0.1] * 6 + [0.4] * 2, dtype=torch.float64)
    if adam:
        F.cross_entropy(layer(x), y).backward()
        optimizer.step()
        squares = torch.cat(
            [optimizer.state[p]["exp_avg_sq"].flatten() for p in layer.parameters()]
        )
        scale = scale / ((squares / 0.001).sqrt() + 1e-8)
    dense = hessian_of(layer, x, y, optimizer)
    root = scale.sqrt()
    truth = torch.linalg.eigvalsh(root[:, None] * dense * root)[-1].item()
    got, bound = read_edge(lambda: F.cross_entropy(layer(x), y), optimizer, steps=8)
    assert got == pytest.approx(truth, rel=1e-4)
    assert bound < 1e-2 * truth
    rows, _ = read_edge(
        lambda: F.cross_entropy(layer(x), y, reduction="none"), optimizer, steps=8
    )
    assert rows == pytest.approx(truth, rel=1e-4)


def test_reading_the_edge_leaves_no_trace():
    model, (x, y) = case()
    F.cross_entropy(model(x), y).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = record(model)
    read_edge(lambda: F.cross_entropy(model(x), y), optimizer)
    assert all(same(a, b) for a, b in zip(before, record(model), strict=True))


def test_curvature_needs_a_graph():
    w = torch.ones(2, 2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    with pytest.raises(LossError, match="with its graph"):
        read_edge(lambda: w.detach().sum(), optimizer)
    with pytest.raises(LossError, match="with its graph"):
        read_edge(lambda: 1.0, optimizer)
    with pytest.raises(LossError, match="linear in the weights"):
        read_edge(w.sum, optimizer)


def test_only_tensors_are_moved():
    with pytest.raises(ArgumentError, match=r"`weights` must hold tensors.*got 0"):
        read_probe(lambda: torch.tensor(1.0), (number for number in range(2)))
