"""Losses, models and data of strangers that once gave a wrong number without a word."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, DataError, DerivativeWarning, LossError

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
BATCHES = [(X[:12], Y[:12]), (X[12:], Y[12:])]


def each(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mean(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Words(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 5, **options), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.table(x).tanh())


class Branch(nn.Module):
    """What one example gets depends on a sum over all of them, by a branch or without one."""

    def __init__(self, *, branches):
        super().__init__()
        self.a, self.b, self.branches = nn.Linear(6, 4), nn.Linear(4, 3), branches

    def forward(self, x):
        h = self.a(x)
        if self.branches:
            return self.b(torch.tanh(2 * h if h.sum() > 0 else h))
        return self.b(torch.tanh(torch.where(h.sum() > 0, 2 * h, h)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("branches", [True, False])
def test_points_side_by_side_share_no_decision(branches, seed):
    torch.manual_seed(seed)
    model = Branch(branches=branches).double()
    data = [(x.double(), y) for x, y in BATCHES]
    objective = la.Objective(model, la.supervised(F.cross_entropy), data)
    plane = la.random_plane(objective, seed=seed, biases=True)
    land = la.map_plane(objective, plane, span=1.5, points=7, adaptive=False)
    there = [[objective.value(plane.point((a, b))) for b in land.axes[1]] for a in land.axes[0]]
    np.testing.assert_allclose(land.values, there, rtol=1e-9)
    with pytest.raises(ArgumentError, match="stacked"):
        la.map_plane(objective, plane, points=5, adaptive=False, engine="stacked")


def test_points_of_the_user_are_not_written_into():
    torch.manual_seed(0)
    tokens = torch.arange(14) % 7
    model = Words(max_norm=1.0)
    objective = la.Objective(model, each, [(tokens, tokens % 3)])
    point = {name: 3 * value.clone() for name, value in objective.params.items()}
    before = copy.deepcopy(point)
    value = objective.value(point)
    with pytest.warns(DerivativeWarning):
        objective.gradient(point)
    step = {name: torch.ones_like(value) for name, value in point.items()}
    land = la.map_plane(objective, la.plane(point, step), points=5, adaptive=False)
    assert all(torch.equal(point[name], before[name]) for name in point)
    assert land.values[2] == pytest.approx(value, rel=1e-6)
    moved = {name: before[name] + step[name] for name in point}
    assert land.values[-1] == pytest.approx(objective.value(moved), rel=1e-6)


def test_the_row_at_padding_idx_stands_still_in_derivatives():
    torch.manual_seed(0)
    tokens = torch.tensor([0, 0, 0, 1, 2, 3, 0, 4, 5])
    model = Words(padding_idx=0).double()
    model.table.weight.data[0] = 1.0
    objective = la.Objective(model, each, [(tokens, tokens % 3)])
    found = la.spectrum(objective, top=2, bottom=1, density=False)
    assert not objective.gradient()["table.weight"][0].any()
    assert "gradient: passed" in " ".join(found.checked)


def test_a_gradient_that_reaches_no_parameter_is_an_error():
    objective = la.Objective(network(), lambda m, b: each(copy.deepcopy(m), b), BATCHES)
    with pytest.raises(LossError, match="does not lead back"):
        objective.gradient()


def test_a_gradient_in_unused_parameters_is_zero():
    model = nn.ModuleList([network(), nn.Linear(2, 2)])
    objective = la.Objective(model, lambda m, b: each(m[0], b), BATCHES)
    unused = objective.part(names=["1.weight", "1.bias"])
    assert not any(value.any() for value in unused.gradient().values())


class Ending:
    """A loader that goes on where the last walk ended."""

    def __init__(self, walks):
        self.left = iter(BATCHES * walks)

    def __iter__(self):
        for _ in BATCHES:
            batch = next(self.left, None)
            if batch is None:
                return
            yield batch


def test_a_loader_that_runs_dry_is_named():
    objective = la.Objective(network(), each, Ending(20))
    with pytest.raises(DataError, match="the first walk 2"):
        [objective.value() for _ in range(20)]
    assert objective.part(BATCHES[:1]).value() > 0


def test_examples_that_depend_on_each_other_are_told():
    def contrastive(model, batch):
        found = F.normalize(model(batch[0]), dim=1)
        return F.cross_entropy(found @ found.T, torch.arange(len(found)), reduction="none")

    (note,) = la.Objective(network(), contrastive, BATCHES).notes
    assert "depends on the others" in note
    for loss in (each, mean, lambda m, b: la.Weighted(each(m, b), b[1] + 1.0)):
        for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            data = [(x.to(kind), y) for x, y in BATCHES]
            assert la.Objective(network().to(kind), loss, data).notes == ()


def test_more_numbers_than_examples_are_told():
    x = torch.randn(4, 5, 6)

    def tokens(model, batch):
        return model(batch).square().mean(2).flatten()

    (note,) = la.Objective(network(), tokens, [x]).notes
    assert "20 numbers for a batch of 4" in note
    assert la.Objective(network(), lambda m, b: tokens(m, b)[:3], [x]).notes == ()


def test_a_graph_that_is_kept_from_batch_to_batch_is_named():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.state = nn.GRUCell(6, 3), None

        def forward(self, x):
            before = torch.zeros(len(x), 3) if self.state is None else self.state
            self.state = self.cell(x, before)
            return self.state

    objective = la.Objective(Recurrent(), each, BATCHES)
    with pytest.raises(LossError, match=r"'state'.*must be detached"):
        objective.gradient()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_bounds_of_eigenvalues_hold_half_precision(kind):
    for seed in range(4):
        torch.manual_seed(seed)
        model = network().to(kind)
        data = [(x.to(kind), y) for x, y in BATCHES]
        exact = la.Objective(
            copy.deepcopy(model).double(), each, [(x.double(), y) for x, y in data]
        )
        rough = la.Objective(model, each, data)
        found, true = (
            la.spectrum(objective, top=2, bottom=1, density=False, by="layer")
            for objective in (rough, exact)
        )
        assert (abs(found.top - true.top) <= found.top_bounds).all()
        assert (abs(found.bottom - true.bottom) <= found.bottom_bounds).all()
        for line, right in zip(found.groups, true.groups, strict=True):
            assert abs(line.largest - right.largest) <= line.largest_bound


def test_calls_of_one_input_under_other_weights_or_switches_are_other_calls():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.extra, self.on = network(), nn.Linear(6, 3), True

        def forward(self, x):
            return self.net(x) + self.extra(x) if self.on else self.net(x)

    def preference(model, batch):
        ours = model(batch[0])
        model.on = False
        theirs = model(batch[0])
        model.on = True
        return (ours - theirs).square().sum(1)

    def perturbed(model, batch):
        weights = {name: 1.5 * value for name, value in model.named_parameters()}
        other = torch.func.functional_call(model, weights, (batch[0],))
        return (model(batch[0]) - other).square().sum(1)

    model = Adapted()
    for loss in (preference, perturbed):
        expected = float(torch.cat([loss(model, b).detach() for b in BATCHES]).mean())
        objective = la.Objective(model, loss, BATCHES)
        found = objective.evaluate_all({"again": loss, "accuracy": la.accuracy})
        assert found["loss"].value == pytest.approx(expected, rel=1e-5)
        assert found["again"].value == pytest.approx(expected, rel=1e-5)


def test_losses_that_differentiate_in_the_parameters_serve_at_every_point():
    def smooth(model, batch):
        with torch.enable_grad():
            first = mean(model, batch)
            parts = torch.autograd.grad(first, list(model.parameters()), create_graph=True)
        return first + sum(part.square().sum() for part in parts)

    objective = la.Objective(network(), smooth, BATCHES)
    point = {name: 1.1 * value for name, value in objective.params.items()}
    model = network()
    model.load_state_dict(point)
    expected = sum(float(smooth(model, batch).detach()) for batch in BATCHES) / 2
    assert objective.value(point) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rebinds", ["data", "parameter"])
def test_weights_that_a_pass_replaces_come_back(rebinds):
    class Normed(nn.Linear):
        def forward(self, x):
            length = self.weight.detach().norm(dim=1, keepdim=True)
            if rebinds == "data":
                self.weight.data = self.weight.data / length
            else:
                self.weight = nn.Parameter(self.weight.detach() / length)
            return super().forward(x)

    torch.manual_seed(0)
    model = Normed(6, 3)
    own, before = model.weight, model.weight.detach().clone()
    objective = la.Objective(model, each, BATCHES)
    first = objective.value()
    point = {name: 2 * value for name, value in objective.params.items()}
    kept = copy.deepcopy(point)
    assert objective.value(point) != objective.value()
    assert objective.value() == first
    assert model.weight is own
    assert torch.equal(model.weight, before)
    assert torch.equal(point["weight"], kept["weight"])
    if rebinds == "data":
        plane = la.random_plane(objective)
        land = la.map_plane(objective, plane, points=5, adaptive=False)
        corner = plane.point((land.axes[0][0], land.axes[1][4]))
        assert land.values[0, 4] == pytest.approx(objective.value(corner), rel=1e-6)
    assert torch.equal(model.weight, before)
