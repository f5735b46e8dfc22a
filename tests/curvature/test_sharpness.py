import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import io
from lossatlas.curvature import (
    average_sharpness,
    edge_of_stability,
    m_sharpness,
    relative_flatness,
    spectrum,
    worst_sharpness,
)
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError
from reference import curvature_dense as dense
from reference.curvature_cases import cases, classes, initialized, mlp, normal, stepped

CASES = {case.name: case for case in cases()}


def bowl(size=4):
    """A quadratic at its minimum: loss = mean over 2 outputs of (x . w)^2, minimum at 0."""
    model = nn.Linear(size, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x = normal(30, size)
    batch = (x, torch.zeros(30, 1).double())
    return la.Objective(model, la.supervised(F.mse_loss), [batch]), 2 * x.T @ x / 30


def test_on_a_bowl_average_and_worst_have_closed_forms():
    objective, matrix = bowl()
    found = average_sharpness(objective, 0.3, directions=150)
    want = 0.3**2 * float(matrix.trace()) / (2 * 4)
    assert abs(found.value - want) < 4 * found.stderr
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    worst = worst_sharpness(objective, 0.3, steps=200)
    assert math.isclose(worst.rise.value, 0.3**2 * largest / 2, rel_tol=1e-2)
    assert math.isnan(worst.first_step)
    assert worst.rise.stderr > 0


def test_the_first_step_is_that_of_sam():
    objective = CASES["mlp"].objective
    gradient = objective.gradient()
    length = dense.flat(gradient).norm()
    there = {n: v + 0.05 * gradient[n] / length for n, v in objective.params.items()}
    want = objective.value(there) - objective.value()
    found = worst_sharpness(objective, steps=10)
    assert math.isclose(found.first_step, want, rel_tol=1e-9)
    assert found.rise.value >= found.first_step
    plain = worst_sharpness(objective, steps=0, restarts=0)
    assert plain.rise.value == plain.first_step


def _rescaled(factor):
    """The same function of a ReLU network: layer one times `factor`, layer two divided."""
    model = mlp(activation=nn.ReLU)
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[0].bias.mul_(factor)
        model[2].weight.div_(factor)
    return la.Objective(
        model, la.supervised(F.cross_entropy), [(normal(20, 4), classes(20, 3))]
    )


def test_adaptive_sharpness_does_not_see_a_rescaling_that_moves_lambda_max():
    plain, scaled = _rescaled(1.0), _rescaled(4.0)
    assert math.isclose(plain.value(), scaled.value(), rel_tol=1e-12)
    tops = [float(spectrum(o, top=1, bottom=0, density=False).top[0]) for o in (plain, scaled)]
    assert max(tops) > 2 * min(tops)
    for measure in (
        lambda o: worst_sharpness(o, adaptive=True).rise.value,
        lambda o: average_sharpness(o, adaptive=True).value,
        lambda o: m_sharpness(o, 5, adaptive=True).value,
        lambda o: relative_flatness(o, tolerance=0.01).value,
    ):
        assert math.isclose(measure(plain), measure(scaled), rel_tol=1e-6)
    first, second = (worst_sharpness(o, 0.1).rise.value for o in (plain, scaled))
    assert max(first, second) > 1.2 * min(first, second)


def test_small_sets_see_more_sharpness_than_all_together():
    objective = _rescaled(1.0)
    whole = worst_sharpness(objective, steps=0, restarts=0).first_step
    small = m_sharpness(objective, 2)
    assert small.samples == 10
    assert small.value > whole
    full = m_sharpness(objective, 20)
    assert math.isclose(full.value, whole, rel_tol=1e-9)
    assert "two samples" in full.why_no_error


def test_relative_flatness_is_the_weighted_trace():
    objective = CASES["mlp"].objective
    weight = objective.params["2.weight"]
    matrix = dense.hessian(objective)[-18:-3, -18:-3].reshape(3, 5, 3, 5)
    traces = torch.einsum("aibi->ab", matrix)
    want = float((weight @ weight.T * traces).sum())
    found = relative_flatness(objective, tolerance=0.1, limit=2000)
    assert abs(found.value - want) < 4 * found.stderr
    assert found.reached
    named = relative_flatness(objective, "0.weight", limit=15, tolerance=1e-6)
    assert (named.products, named.reached) == (15, False)


def test_plain_steps_stand_to_two():
    objective, optimizer = stepped(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    found = edge_of_stability(objective, optimizer)
    top = np.linalg.eigvalsh(dense.hessian(objective))[-1]
    assert math.isclose(found.sharpness, 0.1 * top, rel_tol=1e-3)
    assert (found.threshold, found.rule) == (2.0, "descent")
    assert math.isclose(found.ratio, found.sharpness / 2)


@pytest.mark.parametrize(
    ("options", "threshold", "rule"),
    [
        ({"momentum": 0.9}, 3.8, "momentum"),
        ({"momentum": 0.9, "dampening": 0.5}, 7.6, "momentum"),
        ({"momentum": 0.9, "nesterov": True}, 3.8 / 2.8, "nesterov"),
    ],
)
def test_momentum_moves_the_threshold_to_where_a_quadratic_diverges(options, threshold, rule):
    objective, optimizer = stepped(
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, **options), steps=1
    )
    found = edge_of_stability(objective, optimizer)
    assert math.isclose(found.threshold, threshold)
    assert found.rule == rule
    for factor, diverges in ((0.95, False), (1.05, True)):
        x = torch.ones(1, dtype=torch.float64, requires_grad=True)
        descent = torch.optim.SGD([x], lr=factor * threshold, **options)
        for _ in range(600):
            x.grad = x.detach().clone()
            descent.step()
        assert (abs(float(x.detach())) > 1) == diverges


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_measured_in_its_own_metric(amsgrad):
    def make(model):
        return torch.optim.Adam(
            [
                {"params": [model[0].weight, model[0].bias], "lr": 1e-2},
                {"params": model[2].parameters(), "lr": 1e-3},
            ],
            amsgrad=amsgrad,
        )

    objective, optimizer = stepped(make)
    found = edge_of_stability(objective, optimizer)
    key = "max_exp_avg_sq" if amsgrad else "exp_avg_sq"
    roots = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            second = state[key] / (1 - 0.999 ** float(state["step"]))
            roots.append((group["lr"] / (second.sqrt() + 1e-8)).sqrt().reshape(-1))
    scale = torch.cat(roots)
    matrix = scale[:, None] * dense.hessian(objective) * scale
    assert math.isclose(found.sharpness, float(torch.linalg.eigvalsh(matrix)[-1]), rel_tol=1e-3)
    assert (found.threshold, found.rule) == (2 * 1.9 / (1 - 0.9), "adam")


def test_decay_that_joins_the_gradient_counts_and_decoupled_decay_does_not():
    plain = stepped(lambda m: torch.optim.SGD(m.parameters(), lr=0.1), steps=0)
    decayed = stepped(
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, weight_decay=5.0), steps=0
    )
    first, second = (edge_of_stability(*each).sharpness for each in (plain, decayed))
    assert math.isclose(second, first + 0.5, rel_tol=1e-3)
    one, two = (
        edge_of_stability(
            *stepped(lambda m, d=d: torch.optim.AdamW(m.parameters(), weight_decay=d), 1)
        )
        for d in (0.0, 1e-9)
    )
    assert math.isclose(one.sharpness, two.sharpness, rel_tol=1e-3)


def test_wrong_input_is_named():
    objective = CASES["mlp"].objective
    with pytest.raises(ArgumentError, match="`radius`"):
        worst_sharpness(objective, 0.0)
    with pytest.raises(ArgumentError, match="`directions`"):
        average_sharpness(objective, directions=0)
    with pytest.raises(ArgumentError, match="no batch holds 7"):
        m_sharpness(objective, 7)
    with pytest.raises(ArgumentError, match="not all zero"):
        worst_sharpness(bowl()[0], adaptive=True)
    assert worst_sharpness(bowl()[0], adaptive=True, eta=0.1).rise.value > 0
    with pytest.raises(ModelError, match="fewer than two axes"):
        relative_flatness(objective, "2.bias")
    with pytest.raises(ArgumentError, match="SGD or of Adam's kind"):
        edge_of_stability(objective, torch.optim.Adagrad(objective.model.parameters()))
    with pytest.raises(ArgumentError, match="take a step"):
        edge_of_stability(objective, torch.optim.Adam(objective.model.parameters()))
    with pytest.raises(ArgumentError, match="maximizes"):
        edge_of_stability(
            objective, torch.optim.SGD(objective.model.parameters(), lr=1.0, maximize=True)
        )
    with pytest.raises(ModelError, match="same model"):
        edge_of_stability(objective, torch.optim.SGD(mlp().parameters(), lr=1.0))
    mixed = torch.optim.SGD(
        [
            {"params": objective.model[0].parameters()},
            {"params": objective.model[2].parameters(), "momentum": 0.9},
        ],
        lr=0.1,
    )
    with pytest.raises(ArgumentError, match="different momenta"):
        edge_of_stability(objective, mixed)


def test_a_loss_that_is_not_finite_nearby_is_named():
    model = initialized(nn.Linear(2, 1, bias=False))
    log = la.Objective(
        model, lambda m, b: -(m.weight[0, 0] + 5).log() - m(b).mean() * 0, [normal(3, 2)]
    )
    with pytest.raises(NonFiniteError, match="smaller `radius`"):
        average_sharpness(log, 100.0)
    nowhere = la.Objective(model, lambda m, b: m(b).mean() / 0, [normal(3, 2)], check=False)
    with pytest.raises(NonFiniteError, match="at the point itself"):
        worst_sharpness(nowhere)


def test_results_come_back_from_files(tmp_path):
    objective, optimizer = stepped(lambda m: torch.optim.SGD(m.parameters(), lr=0.1), 1)
    for index, found in enumerate(
        (worst_sharpness(objective), edge_of_stability(objective, optimizer))
    ):
        assert io.load(io.save(found, tmp_path / f"{index}.nc")) == found
