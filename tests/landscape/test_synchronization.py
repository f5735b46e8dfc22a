"""How often an engine waits for a device: counted on the processor, by what operations run."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import lossatlas as la
from lossatlas.landscape.engines import Task, build, choice
from lossatlas.objective import standard_errors
from lossatlas.objective.batches import Uploads
from lossatlas.rng import generator

# What makes a number of the processor out of a tensor, and waits for the device.
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
}
POINTS = np.linspace(-0.5, 0.5, 24).reshape(-1, 2)


class Counted(TorchDispatchMode):
    """Counts operations that wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


def network(kind: str) -> nn.Module:
    if kind == "conv":
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
        )
    return nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3))


def task(kind: str, loss=None) -> Task:
    drawn = generator("waits", kind)
    shape = (1, 4, 4) if kind == "conv" else (16,)
    batches = [
        (torch.randn(n, *shape, generator=drawn), torch.randint(0, 3, (n,), generator=drawn))
        for n in (5, 4, 6)
    ]
    objective = la.Objective(network(kind), loss or la.supervised(F.cross_entropy), batches)
    return Task(objective, la.random_plane(objective, seed=0))


def pairs(model, batch):
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return la.Weighted(losses * (1 + batch[1]), 1.0 + batch[1])


def mean(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


# Streaming draws its directions as it goes, on the processor.
ENGINES = [
    ("mlp", "plain"), ("mlp", "in_place"), ("mlp", "batched"), ("mlp", "stacked"),
    ("conv", "plain"), ("conv", "folded"), ("conv", "in_place"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), ENGINES)
def test_a_chunk_is_copied_once_and_nothing_else_waits(monkeypatch, kind, name):
    given = task(kind)
    engine = build(given, name)
    near = engine.evaluate(POINTS)
    monkeypatch.setattr(standard_errors, "_is_far", lambda value: True)
    with Counted() as counted:
        sums = engine.moments(POINTS)
        assert sums.copies == 0
    assert counted.waits == []
    sums.settle()
    assert sums.copies == 1
    np.testing.assert_array_equal(engine.evaluate(POINTS), near)


@pytest.mark.parametrize("loss", [pairs, mean])
def test_what_waits_on_a_device_has_the_same_bits(monkeypatch, loss):
    given = task("mlp", loss)
    engine = build(given, "plain")
    near = engine.evaluate(POINTS)
    monkeypatch.setattr(standard_errors, "_is_far", lambda value: True)
    np.testing.assert_array_equal(engine.evaluate(POINTS), near)
    monkeypatch.setattr(standard_errors, "_MOST_WAITING", 7)
    sums = engine.moments(POINTS)
    assert sums.copies > 1
    np.testing.assert_array_equal(engine.evaluate(POINTS), near)


def test_batches_of_the_host_are_sent_once_where_they_fit():
    sent = []

    class Noted(Uploads):
        def _is_away(self, batch):
            return True

        def _send(self, value):
            sent.append(value)
            return value.clone()

    batches = [(torch.zeros(4, 2), torch.zeros(4)), (torch.zeros(4, 2), torch.zeros(4))]
    bytes_of_one = 4 * (8 + 4)
    for budget, times in ((2 * bytes_of_one, 4), (bytes_of_one, 8), (None, 12)):
        sent.clear()
        uploads = Noted(torch.device("cpu"), budget)
        for _ in range(3):
            for index, batch in enumerate(batches):
                uploads(index, batch)
        assert len(sent) == times


@pytest.mark.parametrize(("precision", "allowed"), [("highest", 1e-6), ("high", 6.2e-5)])
def test_engines_may_differ_by_what_kernels_round(precision, allowed):
    given, before = task("mlp"), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert choice._tolerance(given) == pytest.approx(allowed, rel=0.02)
    finally:
        torch.set_float32_matmul_precision(before)
