import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import LearningRate, edge_of_stability
from lossatlas.errors import ArgumentError
from lossatlas.training import load_dataset
from reference import curvature_dense as dense
from reference.curvature_cases import stepped

OTHERS = ("RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "SparseAdam", "ASGD", "LBFGS")


def _diverges(beta, decay, factor, threshold, steps=800):
    """Whether NAdam leaves a quadratic of curvature 1; a vast eps makes it divide by that."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    eps = 1e12
    optimizer = torch.optim.NAdam(
        [x], lr=factor * threshold * eps, betas=(beta, 0.999), eps=eps, momentum_decay=decay
    )
    for _ in range(steps):
        x.grad = x.detach().clone()
        optimizer.step()
    return abs(float(x.detach())) > 1


@pytest.mark.parametrize("beta", [0.5, 0.9])
# A momentum that stays at half its beta, and one that is all of it at once.
@pytest.mark.parametrize(("decay", "share"), [(0.0, 0.5), (1e6, 1.0)])
def test_the_threshold_of_nadam_is_where_a_quadratic_diverges(beta, decay, share):
    objective, optimizer = stepped(
        lambda m: torch.optim.NAdam(
            m.parameters(), lr=1e-3, betas=(beta, 0.999), momentum_decay=decay
        )
    )
    found = edge_of_stability(objective, optimizer)
    assert found.rule == "nadam"
    held = share * beta
    want = 2 * (1 + beta) / ((1 + beta) * (1 - held) + (1 - beta) * held)
    assert math.isclose(found.threshold, want, rel_tol=1e-12)
    assert not _diverges(beta, decay, 0.97, found.threshold)
    assert _diverges(beta, decay, 1.03, found.threshold)


def test_the_threshold_of_nadam_follows_its_growing_momentum():
    thresholds = []
    for step in (20, 5000, 10**6):
        objective, optimizer = stepped(lambda m: torch.optim.NAdam(m.parameters()))
        for state in optimizer.state.values():
            state["step"].fill_(step)
        thresholds.append(edge_of_stability(objective, optimizer).threshold)
    assert thresholds == sorted(thresholds)
    assert math.isclose(thresholds[0], 3.8 / (1.9 * 0.55 + 0.1 * 0.45), rel_tol=1e-2)
    assert math.isclose(thresholds[-1], 3.8 / 0.28, rel_tol=1e-9)


def test_nadam_is_measured_in_its_own_metric():
    objective, optimizer = stepped(lambda m: torch.optim.NAdam(m.parameters(), lr=1e-2))
    found = edge_of_stability(objective, optimizer)
    roots = []
    for parameter in objective.model.parameters():
        state = optimizer.state[parameter]
        second = state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))
        roots.append((1e-2 / (second.sqrt() + 1e-8)).sqrt().reshape(-1))
    scale = torch.cat(roots)
    matrix = scale[:, None] * dense.hessian(objective) * scale
    assert math.isclose(found.sharpness, np.linalg.eigvalsh(matrix)[-1], rel_tol=1e-3)
    assert math.isclose(found.ratio, found.sharpness / found.threshold)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("steps", [0, 1])
def test_other_optimizers_are_refused_by_name(name, steps):
    objective, optimizer = stepped(lambda m: torch.optim.SGD(m.parameters()), steps=0)
    other = getattr(torch.optim, name)(objective.model.parameters(), lr=0.1)
    if steps and name != "LBFGS" and name != "SparseAdam":
        objective.loss(objective.model, objective.batches[0]).backward()
        other.step()
    with pytest.raises(ArgumentError, match=rf"Adam, AdamW, NAdam.*got {name},.*with 2"):
        edge_of_stability(objective, other)
    assert edge_of_stability(objective, optimizer).rule == "descent"


class Lion(torch.optim.Optimizer):
    """Signs of a mean gradient: betas, and no second moment."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.0})


def test_an_optimizer_of_others_with_betas_is_refused_by_name():
    objective, _ = stepped(lambda m: torch.optim.SGD(m.parameters()), steps=0)
    with pytest.raises(ArgumentError, match="got Lion"):
        edge_of_stability(objective, Lion(objective.model.parameters()))


class Shell(torch.optim.Optimizer):
    """What frameworks hand out: an optimizer around an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_subclasses_variants_and_shells_are_served():
    class Mine(torch.optim.SGD):
        pass

    for make, rule in (
        (lambda m: Mine(m.parameters(), lr=0.1, momentum=0.9), "momentum"),
        (lambda m: torch.optim.AdamW(m.parameters()), "adam"),
        (lambda m: torch.optim.Adam(m.parameters(), fused=True), "adam"),
    ):
        objective, optimizer = stepped(make, steps=3)
        plain = edge_of_stability(objective, optimizer)
        assert plain.rule == rule
        assert edge_of_stability(objective, Shell(optimizer)) == plain
    with pytest.raises(ArgumentError, match="got RAdam"):
        edge_of_stability(objective, Shell(torch.optim.RAdam(objective.model.parameters())))


def test_nadam_before_its_first_step_has_no_metric():
    objective, optimizer = stepped(lambda m: torch.optim.NAdam(m.parameters()), steps=0)
    with pytest.raises(ArgumentError, match="take a step before asking"):
        edge_of_stability(objective, optimizer)


def test_groups_of_other_models_do_not_count_and_what_is_no_optimizer_is_named():
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    batch = (torch.randn(8, 3), torch.randn(8, 2))
    objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
    groups = [
        {"params": list(model.parameters()), "momentum": 0.5},
        {"params": list(other.parameters()), "momentum": 0.9},
    ]
    found = edge_of_stability(objective, torch.optim.SGD(groups, lr=0.1))
    alone = edge_of_stability(objective, torch.optim.SGD(groups[:1], lr=0.1))
    assert found == alone
    with pytest.raises(ArgumentError, match="got NoneType"):
        edge_of_stability(objective, None)


def test_the_rate_at_the_edge_is_where_a_quadratic_begins_to_diverge():
    model = torch.nn.Linear(2, 1, bias=False)
    batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)
    objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = edge_of_stability(objective, optimizer)
    assert found.lr == 0.1
    # The largest eigenvalue is 4, the edge of this momentum 3.8.
    assert math.isclose(found.highest_lr, 3.8 / 4, rel_tol=1e-4)
    at_edge = torch.optim.SGD(model.parameters(), lr=found.highest_lr, momentum=0.9)
    assert math.isclose(edge_of_stability(objective, at_edge).ratio, 1.0, rel_tol=1e-4)


def test_groups_of_several_rates_have_no_common_one():
    objective, optimizer = stepped(
        lambda m: torch.optim.SGD(
            [{"params": [p], "lr": 0.1 * (k + 1)} for k, p in enumerate(m.parameters())]
        )
    )
    found = edge_of_stability(objective, optimizer)
    assert math.isnan(found.lr)
    assert math.isnan(found.highest_lr)
    assert "of the edge" in replace(found, chance=None).answer()[0]


def test_the_statistics_are_those_of_the_training_and_are_said():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    loss = la.supervised(F.cross_entropy)
    found = {
        mode: edge_of_stability(la.Objective(model, loss, [(x, y)], mode=mode), optimizer)
        for mode in ("eval", "train")
    }
    assert found["eval"] == found["train"]
    assert found["eval"].by_batch_statistics
    assert "statistics of each batch here, as in training" in found["eval"].sentences()[-1]
    assert "with batch statistics" in found["eval"].estimates()[0].meaning
    # A training that holds these layers fixed steps on running statistics.
    model.train()
    model[1].eval()
    frozen = edge_of_stability(la.Objective(model, loss, [(x, y)]), optimizer)
    # The batch takes the bias before the layer away: Adam's second moments of it are rounding.
    assert frozen.sharpness > 100 * found["train"].sharpness
    assert frozen.by_running_statistics
    assert not frozen.by_batch_statistics
    assert "running statistics" in " ".join(frozen.sentences())
    assert "with running statistics" in frozen.estimates()[0].meaning
    survey = LearningRate(optimizer=frozen)
    assert sum("running statistics" in text for text in survey.sentences()) == 1
    plain = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False))
    steps = torch.optim.SGD(plain.parameters(), lr=0.1)
    found = edge_of_stability(la.Objective(plain, loss, [(x, y)]), steps)
    assert not found.by_running_statistics
    assert not found.by_batch_statistics


def test_a_batch_of_one_example_keeps_running_statistics():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    x, y = torch.randn(9, 4), torch.randint(0, 2, (9,))
    batches = list(zip(x.split(4), y.split(4), strict=True))
    objective = la.Objective(model, la.supervised(F.cross_entropy), batches)
    found = edge_of_stability(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    assert found.by_running_statistics
    assert "running statistics" in found.sentences()[-1]


def trained(lr, momentum=0.9, steps=150):
    """A small network on digits, trained at some rate."""
    digits = load_dataset("digits")
    x, y = digits.inputs.flatten(1), digits.targets
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for rows in torch.randint(0, 1200, (steps, 32)):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return la.Objective(model, la.supervised(F.cross_entropy), [(x[:400], y[:400])]), optimizer


@pytest.mark.parametrize("lr", [3.0, 20.0])
def test_a_rate_that_ruined_the_weights_is_never_said_to_be_stable(lr):
    objective, optimizer = trained(lr)
    found = edge_of_stability(objective, optimizer)
    assert not found.is_judged
    assert found.answer() == (
        "cannot be judged: these weights predict no better than a constant",
        "",
    )
    said = " ".join(found.sentences())
    assert "are stable" not in said
    assert f"`lossatlas lr --lr {lr:g}`" in said
    assert "a rate that is too high may have led to them" in said
    survey = la.survey(objective, points=3, span=0.3, instruments="stability", lr=lr)
    assert survey.findings["stability"].answer() == found.answer()
    assert survey.sentences()[0].startswith("These weights predict no better than a constant")
    assert any("no better than a constant" in text for text in survey.summary()["sentences"])


def test_a_rate_that_learned_is_judged_and_its_momentum_named():
    objective, optimizer = trained(0.05)
    found = edge_of_stability(objective, optimizer)
    assert found.is_judged
    assert found.answer()[0].startswith("no sign of it: 0.05 is below the edge")
    assert "SGD with momentum 0.9 at a learning rate of 0.05" in found.sentences()[0]
    survey = la.survey(
        objective, points=3, span=0.3, instruments="stability", lr=0.05, momentum=0.9
    )
    assert survey.part("stability", "descent").threshold == found.threshold
    # Who states a momentum trains with SGD: Adam is not answered for.
    assert survey.findings["stability"].answer() == found.answer()
    assert "Adam" not in " ".join(survey.findings["stability"].sentences())
    product, share = found.estimates()
    assert share.name == "share of the edge of stability"
    assert share.value == pytest.approx(product.value / 3.8)
    assert "3.8 for SGD with momentum 0.9" in product.meaning
    with pytest.raises(ArgumentError, match="`momentum` must be below 1"):
        la.survey(objective, points=3, lr=0.05, momentum=1.0)
