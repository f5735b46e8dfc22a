"""What a pass changes in a model, a loss or the data is renewed at every point and put back."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, LossError, ModelError, StochasticError

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
BATCHES = [(X[:12], Y[:12]), (X[12:], Y[12:])]
CE = la.supervised(F.cross_entropy)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Center(Base):
    """Subtracts a moving average, as DINO does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(3))

    def forward(self, x):
        found = self.net(x)
        given = found - self.center
        self.center.mul_(0.5).add_(found.detach().mean(0))
        return given


class Queue(Base):
    def __init__(self):
        super().__init__()
        self.queue = []

    def forward(self, x):
        found = self.net(x)
        given = found - sum(self.queue)
        self.queue.append(found.detach().mean(0))
        return given


class Target(Base):
    """A frozen copy follows the weights, as BYOL's does."""

    def __init__(self):
        super().__init__()
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x):
        given = self.net(x) - self.target(x)
        for old, new in zip(self.target.parameters(), self.net.parameters(), strict=True):
            old.data.lerp_(new.data, 0.3)
        return given


class Holder:
    """A helper that is no module."""

    def __init__(self):
        self.sums = {}


class Helper(Base):
    def __init__(self):
        super().__init__()
        self.helper = Holder()

    def forward(self, x):
        found = self.net(x)
        given = found - self.helper.sums.get("last", 0)
        self.helper.sums["last"] = found.detach().mean(0)
        return given


class Kept(Base):
    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = 2 * self.net[0].weight.detach() + 0 * self.net[0].weight
        return self.net[2](torch.tanh(x @ self.kept.T + self.net[0].bias))


CHANGING = {kind.__name__: kind for kind in (Center, Queue, Target, Helper, Kept)}


def _everything(model):
    return {n: v.clone() for n, v in model.state_dict().items()}, {
        key: copy.deepcopy(value) for key, value in vars(model).items() if key[0] != "_"
    }


@pytest.mark.parametrize("engine", ["auto", "plain", "streaming"])
@pytest.mark.parametrize("kind", CHANGING.values(), ids=CHANGING)
def test_every_point_of_a_map_is_the_loss_there(kind, engine):
    torch.manual_seed(0)
    model = kind()
    weights, attributes = _everything(model)
    objective = la.Objective(model, CE, BATCHES)
    assert objective.volatile.matters
    plane = la.random_plane(objective, biases=True)
    land = la.map_plane(objective, plane, points=5, adaptive=False, engine=engine)
    assert land.engine == ("plain" if engine == "auto" else engine)
    for row, column in ((0, 0), (2, 2), (4, 1), (4, 4)):
        place = plane.point([land.axes[0][row], land.axes[1][column]])
        assert abs(land.values[row, column] - objective.value(place)) <= 1e-6 * land.range
    now, same = _everything(model)
    assert all(torch.equal(now[name], weights[name]) for name in weights)
    assert same.keys() == attributes.keys()
    assert str(same.get("queue")) == str(attributes.get("queue"))
    assert model.__dict__.get("kept") is None
    if kind is Helper:
        assert model.helper.sums == {}
    with pytest.raises(ArgumentError, match="a pass changes"):
        la.map_plane(objective, plane, points=3, engine="batched")


class Counts(Base):
    def __init__(self):
        super().__init__()
        self.calls, self.log, self.last = 0, [], None

    def forward(self, x):
        self.calls += 1
        self.log.append(self.calls)
        self.last = self.net(x)
        return self.last


def test_what_no_point_sees_keeps_the_fast_engines_and_comes_back():
    model = Counts()
    objective = la.Objective(model, CE, BATCHES)
    assert not objective.volatile.matters
    assert la.map_plane(objective, la.random_plane(objective), points=5).engine != "plain"
    la.spectrum(objective, top=1, bottom=0, density=False)
    assert (model.calls, model.log, model.last) == (0, [], None)
    assert "no other point sees" in str(objective.checks["state"])


class Writes(Base):
    def forward(self, x):
        return self.net(x.mul_(2))


def test_batches_that_are_written_into_come_back():
    given = [(x.clone(), y) for x, y in BATCHES]
    model = Writes()
    objective = la.Objective(model, CE, given)
    plain = la.Objective(model.net, CE, [(2 * x, y) for x, y in BATCHES])
    assert objective.value() == pytest.approx(plain.value(), rel=1e-6)
    la.map_plane(objective, la.random_plane(objective), points=3)
    objective.gradient()
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(given, BATCHES, strict=True))


@pytest.mark.parametrize("engine", ["auto", "plain", "batched"])
def test_containers_that_a_loss_changes_are_its_own(engine):
    given = [{"x": x, "y": y} for x, y in BATCHES]

    def loss(model, batch):
        batch["hidden"] = model(batch.pop("x"))
        return F.cross_entropy(batch["hidden"], batch["y"], reduction="none")

    objective = la.Objective(Base().net, loss, given)
    metrics = {"size": lambda m, b: m(b["x"]).square().mean(1)}
    la.map_plane(
        objective, la.random_plane(objective), points=3, engine=engine, metrics=metrics
    )
    objective.gradient()
    assert all(batch.keys() == {"x", "y"} for batch in given)


class Bag:
    """Holds tensors as attributes, and knows how to copy itself, as TensorDict does."""

    def __init__(self, **entries):
        self.entries = entries

    def copy(self):
        return Bag(**self.entries)


def test_batches_of_other_kinds_are_copied_by_their_own_means():
    bag = Bag(x=X, y=Y)

    def loss(model, batch):
        batch.entries["hidden"] = model(batch.entries["x"])
        return F.cross_entropy(batch.entries["hidden"], batch.entries["y"])

    la.Objective(Base().net, loss, [bag]).gradient()
    assert bag.entries.keys() == {"x", "y"}


def residual(model, batch):
    """A network of one dimension whose second derivative is asked for, one number a point."""
    x = batch[0][:, :1].clone().requires_grad_()
    u = model(x)
    slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
    return (bend + u).square()[:, 0]


def test_losses_that_take_derivatives_go_through_the_instruments():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    objective = la.Objective(model, residual, BATCHES)
    assert objective.needs_gradients
    assert objective.unit == "examples"
    assert not objective.example_losses().requires_grad
    with torch.enable_grad():
        direct = residual(model, (X, Y)).mean().item()
    assert objective.value() == pytest.approx(direct, rel=1e-6)
    assert not la.check(objective).failed
    names = ["sharpness", "flatness", "curvature"]
    found = la.survey(objective, points=3, span=0.1, instruments=names)
    assert not any(finding.missing for finding in found.findings.values())


class Detector(Base):
    """Gives losses in train mode and predictions in eval mode."""

    def forward(self, x, y):
        found = self.net(x)
        return {"class": F.cross_entropy(found, y)} if self.training else [found.argmax(1)]


def test_losses_of_train_mode_only_are_told_how_and_served():
    model = Detector()
    with pytest.raises(LossError, match=r"works in train mode .*model\.train\(\)"):
        la.Objective(model, lambda m, b: sum(m(*b).values()), BATCHES)

    def loss(model, batch):
        model.train()
        return sum(model(*batch).values())

    model.eval()
    assert la.Objective(model, loss, BATCHES).gradient()
    assert not model.training


class Noisy(Base):
    def __init__(self, how):
        super().__init__()
        self.how, self.drop = how, nn.Dropout(0.5)

    def forward(self, x):
        return self.how(self, self.drop(self.net(x)))


def test_the_reason_why_two_passes_differ_is_named():
    def stays_active(model, y):
        model.drop.train()
        return model.drop(y)

    with pytest.raises(StochasticError, match=r"dropout \(drop\)"):
        la.Objective(Noisy(stays_active), CE, BATCHES)
    with pytest.raises(StochasticError) as caught:
        la.Objective(Noisy(lambda m, y: y + 10 * torch.rand(1) * y), CE, BATCHES)
    assert "dropout (drop)" not in str(caught.value)
    calls = []

    def counted(model, batch):
        calls.append(0)
        return len(calls) * CE(model, batch)

    with pytest.raises(StochasticError, match="depends on state that a call changes"):
        la.Objective(Base().net, counted, BATCHES)


def test_a_module_of_the_loss_is_renewed_too():
    center = Center()
    model = Base().net
    loss = lambda m, b: F.cross_entropy(m(b[0]) - _moving(center, m(b[0])), b[1])  # noqa: E731
    center.requires_grad_(False)
    objective = la.Objective(model, loss, BATCHES)
    plane = la.random_plane(objective)
    land = la.map_plane(objective, plane, points=3, adaptive=False)
    place = plane.point([land.axes[0][2], land.axes[1][2]])
    assert abs(land.values[2, 2] - objective.value(place)) <= 1e-6 * land.range
    assert not center.center.any()


def _moving(center, outputs):
    before = center.center.clone()
    center.center.mul_(0.5).add_(outputs.detach().mean(0))
    return before


def test_kinds_of_parameters_that_cannot_move_are_named():
    model = nn.Linear(6, 3)
    model.spin = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ModelError, match=r"'spin' is complex .*view_as_real"):
        la.Objective(model, CE, BATCHES)
    codes = nn.Linear(6, 3).requires_grad_(False)
    codes.weight = nn.Parameter(torch.ones(3, 6, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"torch.int8 codes"):
        la.Objective(codes, CE, BATCHES)
    sharded = nn.Linear(6, 3)
    sharded.weight.__class__ = type("FlatParameter", (nn.Parameter,), {})
    with pytest.raises(
        ModelError, match=r"'weight' holds many parameters in one .*fully_shard"
    ):
        la.Objective(sharded, CE, BATCHES)
    offloaded = nn.Linear(6, 3, device="meta")
    offloaded._hf_hook = object()
    with pytest.raises(ModelError, match="remove_hook_from_submodules"):
        la.Objective(offloaded, CE, BATCHES)


def test_wrappers_and_messages_of_other_libraries_have_their_remedies():
    class NeuralNet:
        module_ = nn.Linear(6, 3)

    with pytest.raises(ArgumentError, match=r"got NeuralNet: pass its \.module_"):
        la.Objective(NeuralNet(), CE, BATCHES)

    def asks(model, batch):
        raise ValueError(
            "You have to specify either decoder_input_ids or decoder_inputs_embeds"
        )

    with pytest.raises(LossError, match=r"give the model labels"):
        la.Objective(nn.Linear(6, 3), asks, BATCHES)

    class InPlace(Base):
        def forward(self, x):
            hidden = self.net[0](x).exp()
            hidden += 1
            return self.net[2](hidden)

    objective = la.Objective(InPlace(), CE, BATCHES)
    with pytest.raises(LossError, match="use_cache=False"):
        objective.gradient()
    with pytest.raises(LossError, match="use_cache=False"):
        la.spectrum(objective, top=1, bottom=0)


def test_an_unfound_state_is_told_before_a_map(monkeypatch):
    torch.manual_seed(0)
    objective = la.Objective(Queue(), CE, BATCHES)
    hidden = type(objective.volatile)(containers=False, matters=False)
    monkeypatch.setattr(objective, "volatile", hidden)
    with pytest.raises(ModelError, match="evaluated after another one"):
        la.map_plane(objective, la.random_plane(objective), points=3, engine="plain")
    assert np.isfinite(objective.value())
