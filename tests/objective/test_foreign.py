"""What models, losses and metrics raise late, or give in place of a tensor, is named."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, LossError, StochasticError

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
CE = la.supervised(F.cross_entropy)


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


class Picky:
    """Serves as often as construction asks, then no more."""

    def __init__(self):
        self.broken = False

    def __call__(self, model, batch):
        if self.broken:
            raise ZeroDivisionError("no more")
        return CE(model, batch)


@pytest.mark.parametrize(
    "ask",
    [
        lambda o, p: o.value(),
        lambda o, p: o.gradient(),
        lambda o, p: la.map_plane(o, p, points=3),
        lambda o, p: la.spectrum(o, top=1, bottom=0),
    ],
)
def test_a_loss_that_fails_later_is_named_too(ask):
    loss = Picky()
    objective = la.Objective(network(), loss, [(X, Y)])
    plane = la.random_plane(objective)
    loss.broken = True
    with pytest.raises(LossError, match=r"`loss` failed \(ZeroDivisionError: no more in test"):
        ask(objective, plane)


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_a_metric_that_can_not_be_stacked_is_measured_point_by_point(engine):
    objective = la.Objective(network(), CE, [(X, Y)])
    metrics = {"share": lambda m, b: (m(b[0]).argmax(1) == b[1]).float().mean().item()}
    plane = la.random_plane(objective)
    found = la.map_plane(objective, plane, points=3, metrics=metrics, engine=engine)
    plain = la.map_plane(objective, plane, points=3, metrics={"share": la.accuracy})
    assert found.engine == "plain"
    assert abs(found.metrics["share"] - plain.metrics["share"]).max() < 1e-6
    with pytest.raises(ArgumentError, match="cannot serve this model \\(RuntimeError: vmap"):
        la.map_plane(objective, plane, points=3, metrics=metrics, engine="batched")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            lambda v: {"loss": v, "logits": v},
            r"dict with 'loss', 'logits': .* output\['loss'\]",
        ),
        (lambda v: {"nll": v}, r"dict with 'nll': pick the entry, as in output\['nll'\]"),
        (lambda v: (v, v), r"tuple of 2: pick the entry, as in output\[0\]"),
        (lambda v: {}, "got dict"),
    ],
)
def test_a_loss_that_gives_all_the_model_gave_is_told_to_pick(given, words):
    with pytest.raises(LossError, match=words):
        la.Objective(network(), lambda m, b: given(CE(m, b)), [(X, Y)])


def test_who_wants_pairs_says_so_itself():
    batches = [{"x": X, "y": Y}]
    objective = la.Objective(
        network(), lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), batches
    )
    with pytest.raises(
        ArgumentError, match=r"`accuracy` takes .* write metric\(model, batch\)"
    ):
        objective.evaluate_all({"accuracy": la.accuracy})
    with pytest.raises(
        ArgumentError, match=r"`supervised` takes .* write loss\(model, batch\)"
    ):
        la.Objective(network(), CE, batches)


class GivesMapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return {"hidden": x, "logits": self.inner(x)}


def test_accuracy_of_a_mapping_names_its_entry():
    loss = la.Objective(
        GivesMapping(), lambda m, b: F.cross_entropy(m(b[0])["logits"], b[1]), [(X, Y)]
    )
    words = (
        r"returns dict, and `accuracy` failed .* write metric\(.*as in model\(x\)\['logits'\]"
    )
    with pytest.raises(LossError, match=words):
        loss.evaluate_all({"accuracy": la.accuracy})


def test_shuffled_data_with_one_mean_show_a_value_that_differs():
    class Shuffled:
        def __iter__(self):
            order = torch.randperm(12)
            return iter([(X[order], Y[order])])

    with pytest.raises(
        StochasticError, match=r"the mean is (\S+) in both, value \d+ is .*list"
    ):
        la.Objective(network(), CE, Shuffled())


@pytest.mark.parametrize(
    ("outputs", "targets", "words"),
    [
        (lambda x: x[:, :1], Y, r"two classes or more .* outputs \(12, 1\)"),
        (lambda x: x, Y[:, None], r"targets \(12, 1\)"),
        (lambda x: x[:, :3], torch.softmax(X[:, :3], 1), r"of torch.float32"),
    ],
)
def test_accuracy_of_other_shapes_is_refused(outputs, targets, words):
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return outputs(self.inner(x))

    objective = la.Objective(Part(), lambda m, b: m(b[0]).mean(1), [(X, targets)])
    with pytest.raises(LossError, match=words):
        objective.evaluate_all({"accuracy": la.accuracy})


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (dict, "an object of type type"),
        (torch.tensor(1.0), "an object of type Tensor"),
        (np.array(1.0), "an object of type ndarray"),
        ((X,), "tuple of 1"),
        (None, "got None"),
    ],
)
def test_accuracy_takes_pairs(batch, words):
    with pytest.raises(ArgumentError, match=rf"batches that are a pair .*{words}"):
        la.accuracy(network(), batch)


class Classifier(nn.Module):
    """Called by keywords, as models of transformers are."""

    def __init__(self, *, tokens=False):
        super().__init__()
        self.inner, self.tokens = network(), tokens

    def forward(self, x, scale=1.0):
        logits = scale * self.inner(x)
        return {"logits": logits[:, None] if self.tokens else logits}


@pytest.mark.parametrize("labels", [Y, Y[:, None]], ids=["flat", "one column"])
def test_accuracy_of_a_mapping_with_labels_is_that_of_its_pair(labels):
    model = Classifier()
    expected = la.accuracy(model.inner, (X, Y))
    assert torch.equal(la.accuracy(model, {"x": X, "labels": labels, "scale": 2.0}), expected)


def test_accuracy_of_tokens_is_refused():
    with pytest.raises(LossError, match=r"logits \(examples, classes\); got \(12, 1, 3\)"):
        la.accuracy(Classifier(tokens=True), {"x": X, "labels": Y})


def test_classes_under_labels_are_those_of_pairs():
    def loss(model, batch):
        logits = model(batch["x"])["logits"]
        return F.cross_entropy(logits, batch["labels"], reduction="none")

    model = Classifier().double()
    mapped = la.Objective(model, loss, [{"x": X.double(), "labels": Y}])
    paired = la.Objective(model.inner, CE, [(X.double(), Y)])
    options = {"top": 1, "bottom": 0, "density": False, "by": "class"}
    ours, theirs = (la.spectrum(objective, **options) for objective in (mapped, paired))
    assert [group.name for group in ours.groups] == [group.name for group in theirs.groups]
    for our_group, their_group in zip(ours.groups, theirs.groups, strict=True):
        assert our_group.largest == pytest.approx(their_group.largest, rel=1e-6)


def test_walks_of_a_loader_leave_the_random_states():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=5)
    model = network()
    before = torch.get_rng_state()
    objective = la.Objective(model, CE, loader)
    objective.fingerprint()
    la.survey(objective, points=3, span=0.5, instruments="all", lr=0.1)
    la.spectrum(objective, top=1, bottom=0, density=False, curvature="fisher", by="class")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", ["eval", "train", "recalibrated"])
def test_a_loss_that_takes_derivatives_is_served_in_every_mode(mode):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def penalized(model, batch):
        x = batch[0].clone().requires_grad_()
        loss = F.cross_entropy(model(x), batch[1])
        (gradient,) = torch.autograd.grad(loss, [x], create_graph=True)
        return loss + gradient.square().sum()

    value = la.Objective(model, penalized, [(X, Y)], mode=mode).value()
    if mode == "train":
        model.train()
    elif mode == "recalibrated":
        model[1].momentum = None
        model[1].reset_running_stats()
        model.train()(X)
        model.eval()
    else:
        model.eval()
    assert value == pytest.approx(float(penalized(model, (X, Y)).detach()), rel=1e-5)
