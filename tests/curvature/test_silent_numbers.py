"""A measurement that has no meaning is an error with a name, or says why: never a number."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import (
    average_sharpness,
    m_sharpness,
    neural_collapse,
    plasticity,
    relative_flatness,
    residual_gain,
    sample_size_curve,
    worst_sharpness,
    zero_sum_gradients,
)
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError, UnknownNameError
from reference.curvature_cases import classes, initialized, mlp, normal

# Sharpness


class Scaled(nn.Module):
    """Returns f(w) for every example."""

    def __init__(self, function, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))
        self.function = function

    def forward(self, x):
        return self.function(self.w) * x


def along(function, start, size=4):
    """The loss f(w), falling or rising from `start`."""
    model = Scaled(function, start)
    return la.Objective(model, lambda m, b: m(b), [torch.ones(size)])


EDGES = {
    "NaN": along(lambda w: -torch.sqrt(w), 1e-3),
    "inf": along(lambda w: torch.exp(1 / w.clamp(min=0)), 0.04),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize(
    "measure",
    [
        lambda o: m_sharpness(o, 2, 0.05),
        lambda o: worst_sharpness(o, 0.05, steps=0),
        lambda o: worst_sharpness(o, 0.05, steps=2),
        lambda o: average_sharpness(o, 0.05),
    ],
    ids=["m", "worst, no steps", "worst", "average"],
)
def test_a_loss_that_is_not_finite_in_the_ball_is_an_error(name, measure):
    with pytest.raises(NonFiniteError, match="smaller `radius`"):
        measure(EDGES[name])


def test_the_point_after_the_last_step_is_looked_at():
    # The first step goes right, past the top at 0.1; the next one left, where it is NaN.
    objective = along(lambda w: -((w - 0.1) ** 2) + 0 * torch.sqrt(w + 0.2), 0.0)
    start = worst_sharpness(objective, 0.3, steps=0, restarts=0)
    assert math.isclose(start.first_step, -0.03, rel_tol=1e-5)
    assert start.rise.value == 0.0
    with pytest.raises(NonFiniteError, match="smaller `radius`"):
        worst_sharpness(objective, 0.3, steps=1, restarts=0)


def test_a_ball_without_a_higher_point_gives_its_center_with_an_error():
    model = initialized(nn.Linear(3, 1, bias=False))
    nn.init.zeros_(model.weight)
    top = la.Objective(model, lambda m, b: -m(b).square().squeeze(1), [normal(20, 3)])
    found = worst_sharpness(top, 0.1).rise
    assert (found.value, found.samples) == (0.0, 20)
    assert found.stderr > 0
    means = la.Objective(model, lambda m, b: -m(b).square().mean(), [normal(20, 3)])
    assert "only means" in worst_sharpness(means, 0.1).rise.why_no_error


# Zero-sum learning


def _broken(objective):
    return {name: value * math.nan for name, value in objective.params.items()}


def _classified(model, inputs, number=3):
    batch = (inputs, classes(len(inputs), number))
    return la.Objective(model, la.supervised(F.cross_entropy), [batch])


def test_gradients_that_are_not_finite_do_not_count_as_zero():
    objective = _classified(mlp(), normal(10, 4))
    with pytest.raises(NonFiniteError, match="gradient of some example"):
        zero_sum_gradients(objective, params=_broken(objective))


def test_why_gradients_have_no_error_is_told_apart():
    model = initialized(nn.Linear(2, 1, bias=False))
    silent = la.Objective(model, lambda m, b: m(b * 0).squeeze(1), [normal(8, 2)])
    found = zero_sum_gradients(silent)
    assert math.isnan(found.overall.value)
    assert found.overall.why_no_error == "every gradient is zero"
    single = torch.zeros(8, 2).double()
    single[0] = 1.0
    found = zero_sum_gradients(la.Objective(model, lambda m, b: m(b).squeeze(1), [single]))
    assert found.overall.value == 0.0
    assert "one fold is left out" in found.overall.why_no_error


def _embedded(bag, sparse):
    kind = nn.EmbeddingBag if bag else nn.Embedding
    parts = [kind(7, 4, sparse=sparse)] + ([] if bag else [nn.Flatten()])
    model = initialized(nn.Sequential(*parts, nn.Linear(4 if bag else 20, 3)))
    return _classified(model, (torch.arange(60) * 3 % 7).reshape(12, 5))


@pytest.mark.parametrize("bag", [False, True])
def test_sparse_gradients_count_as_dense_ones_do(bag):
    sparse, dense = (_embedded(bag, each) for each in (True, False))
    for measure in (
        lambda o: zero_sum_gradients(o).overall.value,
        lambda o: plasticity(o, tasks=2, steps=5, learning_rate=0.1).value.value,
    ):
        assert math.isclose(measure(sparse), measure(dense), rel_tol=1e-9)


# Plasticity and spikes


def test_plasticity_of_broken_weights_or_a_run_that_diverged_is_an_error():
    objective = _classified(mlp(activation=nn.ReLU), normal(10, 4))
    with pytest.raises(NonFiniteError, match="at the weights it starts from"):
        plasticity(objective, tasks=2, steps=3, params=_broken(objective))
    with pytest.raises(NonFiniteError, match="smaller `learning_rate`"):
        plasticity(objective, tasks=2, steps=3, learning_rate=1e300)


class Step(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(x, self.linear)


def _steps(function):
    model = initialized(nn.Sequential(Step(lambda x, f: x + f(x)), Step(function)))
    return la.Objective(model, lambda m, b: m(b).square().mean(), [normal(3, 4)])


def test_a_block_without_a_finite_gain_is_named():
    objective = _steps(lambda x, f: x + f(x))
    with pytest.raises(NonFiniteError, match="'0' does not have a finite output"):
        residual_gain(objective, params=_broken(objective))
    rooted = _steps(lambda x, f: x + torch.sqrt(0 * f(x)))
    with pytest.raises(NonFiniteError, match="'1' does not have a finite output"):
        residual_gain(rooted)


def test_a_block_that_passes_nothing_on_has_gain_zero():
    found = residual_gain(_steps(lambda x, f: 0 * f(x)))
    assert (found.blocks[1].gain, found.blocks[1].change) == (0.0, 0.0)
    assert found.log_bound == -math.inf


# Names and numbers of arguments


def test_relative_flatness_takes_one_weight_by_name_or_pattern():
    objective = _classified(mlp(), normal(10, 4))
    by_name, by_pattern = (relative_flatness(objective, n) for n in ("0.weight", "0.w*"))
    assert by_name == by_pattern
    with pytest.raises(ArgumentError, match=r"matches '0\.weight', '2\.weight': call it once"):
        relative_flatness(objective, "*.weight")
    with pytest.raises(UnknownNameError, match=r"`name`: .*did you mean '2\.weight'"):
        relative_flatness(objective, "2.wieght")
    with pytest.raises(ModelError, match=r"'0\.bias' has fewer than two axes"):
        relative_flatness(objective, "0.b*")


def test_more_directions_than_parameters_are_named_so():
    objective = _classified(initialized(nn.Linear(4, 3)), normal(60, 4))
    with pytest.raises(ArgumentError, match=r"`directions` must be .* 15; got 50"):
        sample_size_curve(objective, directions=50)


# Neural collapse


LABELS = torch.arange(3).repeat(6)


@pytest.mark.parametrize("value", [0.1, 0.0])
def test_constant_features_have_not_collapsed(value):
    found = neural_collapse(torch.full((18, 4), value), LABELS, torch.eye(3, 4))
    for sign in (found.within, found.norms, found.angles, found.self_dual, found.nearest):
        assert math.isnan(sign.value)
        assert sign.why_no_error.startswith(("the class means are equal", "a class mean lies"))
    if value:
        assert math.isclose(found.orthogonal.value, 1.0)
    else:
        assert found.orthogonal.why_no_error.startswith("a class mean is zero")


@pytest.mark.parametrize("balanced", [False, True])
def test_scatter_around_equal_means_is_no_collapse_either(balanced):
    # The pseudo-inverse of no scatter between classes is zero: NC1 would be too.
    around = normal(6, 4)
    features = 1000 + torch.cat([around, -around])
    features = features.repeat_interleave(3, dim=0)
    labels = torch.arange(3).repeat(12)
    found = neural_collapse(features, labels, balanced=balanced)
    assert math.isnan(found.within.value)
    assert "class means are equal" in found.within.why_no_error


def test_a_class_at_the_center_of_all_has_lengths_but_no_angle():
    line = torch.tensor([-1.0, 0.0, 1.0]).double()[LABELS, None] * torch.ones(1, 4) + 0.1
    found = neural_collapse(line, LABELS)
    assert abs(found.within.value) < 1e-9
    assert found.norms.value > 0
    assert "has no direction" in found.angles.why_no_error


def test_a_classifier_that_is_not_finite_is_named():
    weight = torch.full((3, 4), np.nan)
    with pytest.raises(NonFiniteError, match="`weight`"):
        neural_collapse(normal(18, 4), LABELS, weight)
    with pytest.raises(NonFiniteError, match="`bias`"):
        neural_collapse(normal(18, 4), LABELS, torch.eye(3, 4), torch.full((3,), np.inf))
