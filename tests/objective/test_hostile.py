"""Models, losses and batches that do what they should not; nothing is silent, nothing stays."""

import copy
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import (
    ArgumentError,
    DataError,
    LossError,
    ModelError,
    ResumeError,
    StructureError,
)
from lossatlas.objective.losses import Supervised
from lossatlas.training.criteria import build_loss
from lossatlas.training.training import train

X, Y = torch.randn(13, 6, generator=torch.Generator().manual_seed(0)), torch.arange(13) % 3
BATCHES = [(X[:8], Y[:8]), (X[8:], Y[8:])]
CE = la.supervised(F.cross_entropy)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def test_another_loss_model_or_metric_does_not_resume(tmp_path):
    model = network()
    options = {"points": 3, "adaptive": False, "resume": tmp_path / "r"}
    objective = la.Objective(model, CE, BATCHES)
    la.map_plane(objective, la.random_plane(objective), **options)
    shifted = la.Objective(model, lambda m, b: 100 + CE(m, b), BATCHES)
    with pytest.raises(ResumeError, match="measured"):
        la.map_plane(shifted, la.random_plane(shifted), **options)
    model[1] = nn.ReLU()
    with pytest.raises(ResumeError, match="measured"):
        la.map_plane(objective, la.random_plane(objective), **options)


def test_a_metric_that_writes_into_its_input_cannot_change_the_loss():
    objective = la.Objective(network(), CE, BATCHES)
    plane = la.random_plane(objective)
    rude = {"a": lambda m, b: m(b[0]).sigmoid_().amax(1), "b": lambda m, b: m(b[0]).amax(1)}
    alone = la.map_plane(objective, plane, points=3, adaptive=False, engine="plain")
    both = la.map_plane(
        objective, plane, points=3, adaptive=False, engine="plain", metrics=rude
    )
    np.testing.assert_array_equal(alone.values, both.values)
    assert (both.metrics["b"] != both.metrics["a"]).any()


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.last = None

    def forward(self, x):
        self.last = self.a(x)
        return self.last


@pytest.mark.parametrize("engine", ["plain", "batched", "streaming"])
def test_attributes_of_modules_come_back(engine):
    model = Remembers()
    objective = la.Objective(model, CE, BATCHES)
    la.map_plane(objective, la.random_plane(objective), points=3, engine=engine)
    assert model.last is None
    copy.deepcopy(model)


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


def test_dataclasses_are_batches_and_what_has_no_size_is_refused():
    model = network()
    loss = lambda m, b: F.cross_entropy(m(b.x), b.y)  # noqa: E731
    found = la.Objective(model, loss, [Pair(X[:12], Y[:12]), Pair(X[12:], Y[12:])])
    assert found.value() == pytest.approx(la.Objective(model, CE, [(X, Y)]).value())

    class Opaque:
        def __init__(self, x, y):
            self.x, self.y = x, y

    with pytest.raises(DataError, match="how many examples"):
        la.Objective(model, loss, [Opaque(X[:8], Y[:8]), Opaque(X[8:], Y[8:])])


def test_half_precision_is_never_batched_or_folded_unasked():
    model = network().bfloat16()
    batches = [(X.bfloat16(), Y)]
    objective = la.Objective(model, CE, batches)
    assert la.plan_map(objective, la.random_plane(objective)).engine == "plain"


def test_lazy_models_are_sent_back_unchanged():
    model = nn.LazyLinear(3)
    with pytest.raises(ModelError, match="lazy and has no shape yet; run the model once"):
        la.Objective(model, CE, BATCHES)
    assert type(model) is nn.LazyLinear


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 3)
        self.hidden = Hidden(self.l)

    def forward(self, x):
        return self.hidden(x)


class Hidden:
    """Reads weights where no torch function is seen to take them."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        weight = self.layer.weight.detach().numpy()
        return torch.from_numpy(x.numpy() @ weight.T)


def test_streaming_says_so_when_it_does_not_see_a_weight():
    objective = la.Objective(Scripted(), CE, BATCHES)
    plane = la.random_plane(objective, biases=True)
    with pytest.raises(ModelError, match=r"streaming never saw 'l\.bias'"):
        la.map_plane(objective, plane, points=3, engine="streaming")


@pytest.mark.parametrize(
    "call",
    [
        la.survey,
        la.random_plane,
        lambda model: la.map_plane(model, None),
        lambda model: la.suggest_span(model, None),
        lambda model: la.compare(model, {}, {}),
    ],
)
def test_a_model_in_the_place_of_an_objective_is_told_the_way(call):
    with pytest.raises(ArgumentError, match=r"make one with Objective\(model, loss, batches\)"):
        call(network())


def test_other_things_in_wrong_places_are_named():
    objective = la.Objective(network(), CE, BATCHES)
    plane = la.random_plane(objective)
    with pytest.raises(ArgumentError, match="`plane` must be a Plane; got int"):
        la.map_plane(objective, 3)
    with pytest.raises(ArgumentError, match=r"`metrics` must map names .*got list"):
        la.map_plane(objective, plane, metrics=[la.accuracy])
    with pytest.raises(ArgumentError, match="`progress` must be callable"):
        la.map_plane(objective, plane, progress=3)
    with pytest.raises(StructureError, match="must map names to tensors"):
        la.compare(objective, None, objective.params)
    with pytest.raises(StructureError, match="must map names to tensors"):
        la.plane_through({"a": np.ones(2)}, {"a": np.zeros(2)})
    with pytest.raises(ArgumentError, match=r"no option of compare .did you mean 'engine'"):
        la.compare(objective, objective.params, objective.params, engin="plain")


class Gives(nn.Module):
    """Returns something else than a tensor."""

    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(6, 3), wrap

    def forward(self, x):
        return self.wrap(self.layer(x))


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda y: (y, y), "tuple"),
        (lambda y: {"logits": y}, "dict"),
        (lambda _: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("criterion", [F.cross_entropy, build_loss("cross_entropy")])
def test_a_model_that_gives_no_tensor_is_named(criterion, wrap, kind):
    with pytest.raises(LossError, match=rf"returns {kind}, .*picks the tensor") as caught:
        la.Objective(Gives(wrap), la.supervised(criterion), BATCHES)
    # The user's own line stays within reach.
    assert isinstance(caught.value.__cause__, TypeError | AttributeError)


def test_a_fault_within_a_criterion_shows_beside_what_the_model_gave():
    def criterion(outputs, targets):
        return F.cross_entropy(outputs["logits"], targets.with_a_typo)

    with pytest.raises(LossError, match=r"returns dict, .*attribute 'with_a_typo' in test_h"):
        la.Objective(Gives(lambda y: {"logits": y}), la.supervised(criterion), BATCHES)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


def failing(error):
    def loss(model, batch):
        raise error

    return loss


def test_the_line_that_is_told_is_the_users_and_any_error_has_a_name():
    with pytest.raises(LossError, match=r"JSONDecodeError: .* in test_hostile.py, line"):
        la.Objective(network(), lambda m, b: json.loads("nope"), BATCHES)
    with pytest.raises(LossError, match=r"failed \(Mute in test_hostile.py"):
        la.Objective(network(), failing(Mute()), BATCHES)
    for kind in (MemoryError, torch.OutOfMemoryError):
        with pytest.raises(kind):
            la.Objective(network(), failing(kind("no room")), BATCHES)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda m: m, r"TypeError: .*takes 1 .*loss\(model, batch\)"),
        (lambda m, a, b: m, "missing 1 required"),
        (F.cross_entropy, r"goes in as supervised\(criterion\)"),
        (la.supervised(lambda a, b, c: a), "missing 1 required"),
        (lambda m, b: 1 / 0, "ZeroDivisionError.* in test_hostile.py, line"),
        (la.supervised(lambda a, b: F.cross_entropy(a[:, :2], b)), "out of bounds"),
    ],
)
def test_a_loss_that_fails_is_named(loss, words):
    with pytest.raises(LossError, match=words):
        la.Objective(network(), loss, BATCHES)
    if not isinstance(loss, Supervised):
        with pytest.raises(LossError, match="failed"):
            train(network(), BATCHES, loss, steps=1)


def test_models_that_do_not_fit_their_batches_are_named():
    with pytest.raises(LossError, match="mat1 and mat2"):
        la.Objective(nn.Linear(5, 3), CE, BATCHES)
    with pytest.raises(ModelError, match="meta device"):
        la.Objective(nn.Linear(6, 3, device="meta"), CE, BATCHES)


def test_a_metric_that_fails_is_named_by_its_name():
    objective = la.Objective(network(), CE, BATCHES)
    with pytest.raises(LossError, match=r"metric 'half' failed .*metric\(model, batch\)"):
        la.map_plane(
            objective, la.random_plane(objective), points=3, metrics={"half": lambda m: m}
        )


def test_a_loss_without_a_graph_has_no_gradient():
    objective = la.Objective(network(), lambda m, b: CE(m, b).detach(), BATCHES)
    with pytest.raises(LossError, match="neither detached"):
        objective.gradient()


def test_more_things_in_wrong_places():
    objective = la.Objective(network(), CE, BATCHES)
    plane = la.random_plane(objective)
    with pytest.raises(ArgumentError, match="is the class CrossEntropyLoss; make one"):
        la.supervised(nn.CrossEntropyLoss)
    with pytest.raises(ArgumentError, match="`params` must be names"):
        la.Objective(network(), CE, BATCHES, params=3)
    with pytest.raises(ArgumentError, match="`resume` must be the path"):
        la.map_plane(objective, plane, points=3, resume=3)
    with pytest.raises(ArgumentError, match="`result` must be a result"):
        la.write_report(objective, "never.html")
