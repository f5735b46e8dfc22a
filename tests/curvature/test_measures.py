import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import io
from lossatlas.curvature import (
    Density,
    hessian_criteria,
    interference,
    plasticity,
    residual_gain,
    roughness,
    sample_size_curve,
    spectrum,
    zero_sum_gradients,
    zero_sum_losses,
)
from lossatlas.curvature.plasticity import _adam_step
from lossatlas.curvature.roughness import variation
from lossatlas.errors import (
    ArgumentError,
    DataError,
    LossError,
    ModelError,
    NonFiniteError,
    UnknownNameError,
)
from reference import curvature_dense as dense
from reference.curvature_cases import cases, classes, initialized, mlp, normal

CASES = {case.name: case for case in cases()}


# Roughness


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9, unique=True))
def test_a_monotone_line_has_variation_one_and_a_bowl_two(values):
    rising = np.sort(values)
    assert math.isclose(variation(rising), 1.0, rel_tol=1e-9)
    bowl = np.concatenate([rising[::-1], rising[1:]])
    assert math.isclose(variation(bowl), 2.0, rel_tol=1e-9)


def test_a_cosine_has_twice_its_periods_and_edges_have_a_meaning():
    line = np.cos(np.linspace(0, 2 * np.pi * 3, 601))
    assert math.isclose(variation(line), 6.0, rel_tol=1e-9)
    assert variation(np.ones(5)) == 0.0
    assert math.isnan(variation(np.array([1.0, np.inf, 2.0])))


def test_a_quadratic_at_its_minimum_is_not_rough():
    model = initialized(nn.Linear(4, 2))
    x = normal(20, 4)
    objective = la.Objective(model, la.supervised(F.mse_loss), [(x, model(x).detach())])
    found = roughness(objective, directions=5, points=11)
    np.testing.assert_allclose(found.variations, 2.0, rtol=1e-9)
    assert abs(found.index.value) < 1e-9
    assert math.isclose(found.mean.value, 2.0)
    assert found.lost == found.flat == 0


def test_lines_without_change_and_without_a_loss_are_counted():
    model = initialized(nn.Linear(4, 2))
    flat = la.Objective(model, lambda m, b: m.bias.sum(), [normal(3, 4)])
    found = roughness(flat, directions=3, points=5)
    assert (found.flat, found.index.value) == (3, 0.0)
    cliff = la.Objective(
        model,
        lambda m, b: (m.weight.sum() - float(m.weight.sum().detach()) + 1).log() * 0 / 0,
        [normal(3, 4)],
        check=False,
    )
    lost = roughness(cliff, directions=3, points=5)
    assert lost.lost == 3
    assert "finite losses" in lost.index.why_no_error
    only_bias = la.Objective(model, flat.loss, flat.batches, params="bias")
    with pytest.raises(ModelError, match="two axes"):
        roughness(only_bias)
    with pytest.raises(ArgumentError, match="`points`"):
        roughness(flat, points=2)


# LLA's criteria


def test_criteria_follow_their_formulas():
    density = Density(
        np.array([[-3.0, 4.0], [-1.0, 4.0], [-2.0, 4.0]]), np.full((3, 2), 0.5), 4
    )
    found = hessian_criteria(density)
    assert math.isclose(found.ends.value, (0.75 + 0.25 + 0.5) / 3)
    # The first row is the run that found the eigenvalues: it depends on a tolerance.
    assert math.isclose(found.mass.value, (0.5 + math.sqrt(0.5)) / 2)
    assert math.isclose(found.ends.stderr, np.std([0.75, 0.25, 0.5], ddof=1) / math.sqrt(3))
    same = Density(np.array([[-1.0, 4.0], [-1.0, 4.0]]), np.full((2, 2), 0.5), 4)
    assert "pass that" in hessian_criteria(same).ends.why_no_error
    down = Density(np.array([[-1.0, -2.0]]), np.array([[0.5, 0.5]]), 2)
    assert hessian_criteria(down).mass.value == math.inf
    assert "no positive node" in hessian_criteria(down).ends.why_no_error
    with pytest.raises(ArgumentError, match="density=True"):
        hessian_criteria(spectrum(CASES["mlp"].objective, top=1, density=False))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_the_ratio_of_ends_is_within_the_bounds_of_its_eigenvalues(tolerance):
    case = CASES["two batches"]
    values = torch.linalg.eigvalsh(dense.hessian(case.objective))
    truth = abs(float(values[0] / values[-1]))
    found = spectrum(case.objective, top=2, bottom=2, tolerance=tolerance)
    ends = hessian_criteria(found).ends
    assert 0 < ends.stderr < 0.1
    assert abs(ends.value - truth) <= ends.stderr
    assert ends.stderr >= float(found.bottom_bounds[0]) / float(found.top[0])


# Zero-sum learning


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_interference_lies_between_agreement_and_cancellation(values):
    x = torch.tensor(values, dtype=torch.float64)
    if not x.any():
        assert math.isnan(interference(x))
        return
    assert 0 <= interference(x) <= 1 + 1e-12
    assert math.isclose(interference(x.abs()), 0.0, abs_tol=1e-12)
    assert math.isclose(interference(torch.cat([x, -x])), 1.0)
    assert math.isclose(interference(3 * x), interference(x), abs_tol=1e-12)


def test_loss_changes_interfere_as_their_formula_says():
    objective = CASES["mlp"].objective
    after = {n: v + 0.05 for n, v in objective.params.items()}
    change = objective.example_losses(after) - objective.example_losses()
    found = zero_sum_losses(objective, objective.params, after)
    assert math.isclose(found.interference.value, interference(change))
    assert math.isclose(found.change, float(change.mean()))
    assert found.interference.stderr > 0
    still = zero_sum_losses(objective, objective.params)
    assert still.interference.why_no_error == "no loss changed"


@pytest.mark.parametrize("name", ["mlp", "two batches", "frozen layer"])
def test_gradients_interfere_as_their_formula_says(name):
    objective = CASES[name].objective
    rows = []
    for inputs, targets in objective.iter_batches():
        for i in range(len(inputs)):
            one = la.Objective(
                objective.model, objective.loss, [(inputs[i : i + 1], targets[i : i + 1])]
            )
            rows.append(torch.cat([g.reshape(-1) for g in one.gradient().values()]))
    g = torch.stack(rows)
    want = 1 - float(g.sum(0).abs().sum() / g.abs().sum())
    found = zero_sum_gradients(objective, folds=2, chunk=2)
    assert math.isclose(found.overall.value, want, rel_tol=1e-9)
    assert math.isclose(found.histogram.sum(), 1.0)
    assert found.examples == len(rows)
    means = la.Objective(objective.model, lambda m, b: m(b[0]).mean(), objective.batches)
    with pytest.raises(LossError, match="one number an example"):
        zero_sum_gradients(means)


# The sample-size curve


def test_the_curve_falls_and_holds_curvature():
    model = mlp()
    data = [(normal(300, 4), classes(300, 3))]
    objective = la.Objective(model, la.supervised(F.cross_entropy), data)
    found = sample_size_curve(objective, directions=3, points=8, orders=20, sigma=0.1)
    assert np.all(found.change > 0)
    assert np.all(found.stderr > 0)
    slope = np.polyfit(np.log(found.sizes), np.log(found.change), 1)[0]
    assert abs(slope + 2) < 0.3
    # With the change at the center removed, a wider cloud sees the fourth power of its width
    # where the slope is small, the square where it is not: never less than the square.
    wide = sample_size_curve(objective, directions=3, points=8, orders=20, sigma=0.2)
    assert np.all(wide.change > 3.5 * found.change)


def test_the_size_that_suffices_has_an_interval():
    objective = la.Objective(
        mlp(), la.supervised(F.cross_entropy), [(normal(200, 4), classes(200, 3))]
    )
    found = sample_size_curve(objective, directions=2, points=8, orders=30, tolerance=6e-3)
    assert found.enough_low <= found.enough <= found.enough_high
    never = sample_size_curve(objective, directions=2, points=8, orders=5, tolerance=1e-9)
    assert never.enough is never.enough_high is None
    with pytest.raises(ArgumentError, match="between 1 and 199"):
        sample_size_curve(objective, sizes=[200])
    small = la.Objective(mlp(), objective.loss, [(normal(9, 4), classes(9, 3))])
    with pytest.raises(ArgumentError, match="needs 50 examples"):
        sample_size_curve(small)


# Plasticity


def test_a_network_that_can_learn_has_plasticity_and_a_dead_one_has_none():
    data = [(normal(12, 4), classes(12, 3))]
    model = mlp(hidden=32, activation=nn.ReLU)
    objective = la.Objective(model, la.supervised(F.cross_entropy), data)
    found = plasticity(objective, tasks=3, steps=80, learning_rate=0.02)
    assert found.value.value > 0.3
    assert found.value.stderr > 0
    assert np.all(found.constant <= math.log(3) + 1e-12)
    dead = {n: v.clone() for n, v in objective.params.items()}
    dead["0.weight"] *= 0
    dead["0.bias"][:] = -1.0
    stuck = plasticity(objective, tasks=3, steps=80, learning_rate=0.02, params=dead)
    assert stuck.value.value < 0.05
    assert torch.equal(objective.params["0.weight"], dict(model.named_parameters())["0.weight"])
    again = plasticity(objective, tasks=3, steps=80, learning_rate=0.02)
    assert np.array_equal(again.reached, found.reached)


def test_a_step_of_plasticity_is_that_of_adam():
    ours, theirs = normal(5), normal(5).requires_grad_()
    moments = (torch.zeros(5).double(), torch.zeros(5).double())
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for step in range(1, 6):
        gradient = normal(5, seed=step)
        _adam_step(ours, gradient, moments, 0.1, step)
        theirs.grad = gradient
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_plasticity_needs_pairs_and_logits():
    objective = la.Objective(mlp(), lambda m, b: m(b).mean(), [normal(4, 4)])
    with pytest.raises(DataError, match="pairs"):
        plasticity(objective)
    flat = la.Objective(
        nn.Sequential(mlp(), nn.Flatten(0)),
        lambda m, b: m(b[0]).mean(),
        [(normal(4, 4), normal(4))],
    )
    with pytest.raises(LossError, match="returns logits"):
        plasticity(flat)


# Spike risk


class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.scale = scale

    def forward(self, x, shift=0.0):
        return x + self.scale * self.linear(self.norm(x)) + 0 * shift


class Tower(nn.Module):
    def __init__(self, scales):
        super().__init__()
        self.blocks = nn.ModuleList(Block(scale) for scale in scales)

    def forward(self, x):
        for block in self.blocks:
            x = block(x, shift=x.sum())
        return x


def _tower(scales=(0.1, 1.0, 3.0)):
    model = initialized(Tower(scales))
    return la.Objective(model, lambda m, b: m(b).square().mean(), [normal(3, 4)])


def test_gains_are_the_singular_values_of_the_jacobians():
    objective = _tower()
    found = residual_gain(objective, iterations=200)
    assert [line.name for line in found.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    x = objective.batches[0]
    for line, block in zip(found.blocks, objective.model.blocks, strict=True):
        jacobian = torch.autograd.functional.jacobian(block, x).reshape(12, 12)
        assert math.isclose(
            line.gain, float(torch.linalg.matrix_norm(jacobian, 2)), rel_tol=1e-3
        )
        assert math.isclose(line.shortcut, float(x.std()), rel_tol=1e-9)
        with torch.no_grad():
            x = block(x)
    assert math.isclose(found.log_bound, sum(math.log(line.gain) for line in found.blocks))
    assert found.blocks[0].gain < 1.1 < found.blocks[2].gain


def test_blocks_that_the_theory_does_not_cover_are_refused():
    objective = _tower()
    with pytest.raises(UnknownNameError, match=r"did you mean 'blocks\.1'"):
        residual_gain(objective, ["block.1"])
    with pytest.raises(ModelError, match="no list of blocks"):
        residual_gain(CASES["mlp"].objective)
    with pytest.raises(ModelError, match="keeps the shape"):
        residual_gain(CASES["mlp"].objective, ["0"])
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=False)
    post = la.Objective(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double(),
        lambda m, b: m(b).square().mean(),
        [normal(2, 3, 4)],
    )
    with pytest.raises(ModelError, match="post-norm"):
        residual_gain(post)
    pre = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
    good = la.Objective(
        nn.TransformerEncoder(pre, 2, enable_nested_tensor=False).double(),
        post.loss,
        post.batches,
    )
    assert len(residual_gain(good).blocks) == 2
    assert not good.model.layers[0]._forward_pre_hooks


def test_results_come_back_from_files(tmp_path):
    objective = la.Objective(
        mlp(), la.supervised(F.cross_entropy), [(normal(30, 4), classes(30, 3))]
    )
    results = [
        roughness(objective, directions=3, points=5),
        hessian_criteria(spectrum(objective, top=1, bottom=1)),
        zero_sum_losses(objective, {n: v + 0.1 for n, v in objective.params.items()}),
        zero_sum_gradients(objective),
        sample_size_curve(objective, sizes=[5, 9], directions=1, points=2, orders=2),
        plasticity(objective, tasks=2, steps=2),
        residual_gain(_tower()),
    ]
    for index, found in enumerate(results):
        back = io.load(io.save(found, tmp_path / f"{index}.nc"))
        assert repr(back) == repr(found)


def test_losses_that_are_not_finite_are_named():
    objective = CASES["mlp"].objective
    far = {n: v * float("inf") for n, v in objective.params.items()}
    with pytest.raises(NonFiniteError, match="some example"):
        zero_sum_losses(objective, far)


# What a tolerance must not move, and what is not known


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_criterion_k_does_not_see_the_run_that_found_the_eigenvalues(tolerance):
    objective = CASES["mlp"].objective
    options = {"top": 2, "bottom": 2, "probes": 4, "steps": 8}
    found = hessian_criteria(spectrum(objective, tolerance=tolerance, **options)).mass
    fine = hessian_criteria(spectrum(objective, tolerance=1e-8, **options)).mass
    assert found.samples == 3
    assert found.value == pytest.approx(fine.value, rel=0.02)
    alone = spectrum(objective, tolerance=tolerance, **(options | {"probes": 1}))
    lost = hessian_criteria(alone).mass
    assert math.isnan(lost.value)
    assert "second probe" in lost.why_no_error


def test_criterion_re_of_a_hidden_sign_is_not_known():
    objective = CASES["mlp"].objective
    convex = spectrum(objective, top=1, bottom=1, curvature="gauss_newton")
    found = hessian_criteria(convex).ends
    assert math.isnan(found.value)
    assert "hidden by its error bound" in found.why_no_error


def test_the_interval_of_a_sample_size_follows_points_and_orders():
    objective = la.Objective(
        mlp(), la.supervised(F.cross_entropy), [(normal(120, 4), classes(120, 3))]
    )
    options = {"sizes": list(range(10, 60, 2)), "tolerance": 0.012, "orders": 5}
    few, many = (sample_size_curve(objective, points=points, **options) for points in (3, 40))
    for found in (few, many):
        low, high = found.band
        assert np.all((low <= found.change) & (found.change <= high))
        assert (found.enough_low or 0) <= (found.enough or math.inf)
    assert few.stderr[0] / few.change[0] > many.stderr[0] / many.change[0]
    alone = sample_size_curve(objective, points=1, **options)
    assert np.isnan(alone.stderr).all()
    assert alone.enough_low is None
    assert alone.enough_high is None
