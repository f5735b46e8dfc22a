import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas import io
from lossatlas.curvature import (
    activations,
    alpha_req,
    cka,
    effective_rank,
    neural_collapse,
    rankme,
)
from lossatlas.errors import ArgumentError, DataError, NonFiniteError, UnknownNameError
from reference.curvature_cases import cases, normal

CASES = {case.name: case for case in cases()}


def rotation(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


def test_activations_are_what_the_layer_gave():
    objective = CASES["two batches"].objective
    found = activations(objective, "0")
    with torch.no_grad():
        want = torch.cat([objective.model[0](x) for x, _ in objective.batches])
    assert_close(found, want)
    assert not objective.model[0]._forward_hooks
    images = CASES["convolution"].objective
    assert activations(images, "0").shape == (4, 8)
    assert activations(images, "0", reduce="mean").shape == (4, 2)
    tokens = CASES["attention"].objective
    assert activations(tokens, "qkv", reduce="last").shape == (3, 12)
    with torch.no_grad():
        given = torch.cat([objective.model[:2](x) for x, _ in objective.batches])
    assert_close(activations(objective, "2", side="input"), given)
    with pytest.raises(UnknownNameError, match="`side` must be one of 'output'"):
        activations(objective, "0", side="inside")
    with pytest.raises(UnknownNameError, match="no module"):
        activations(objective, "9")
    with pytest.raises(UnknownNameError, match="one of 'flatten'"):
        activations(objective, "0", reduce="flat")


def test_of_a_layer_that_runs_twice_the_last_time_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    model, x = Twice(), normal(6, 4)
    objective = la.Objective(model, la.supervised(F.mse_loss), [(x, x)])
    with torch.no_grad():
        assert_close(activations(objective, "layer"), model(x))
        inner = torch.tanh(model.layer(x))
    assert_close(activations(objective, "layer", side="input"), inner)


@given(st.integers(1, 5))
def test_dead_features_do_not_count(size):
    features = torch.cat([torch.eye(size), -torch.eye(size)]).double()
    padded = F.pad(features, (0, 3))
    for kind in ("entropy", "participation", "stable"):
        found = effective_rank(padded, kind)
        assert math.isclose(found.value, size, rel_tol=1e-9)
        assert math.isfinite(found.stderr) or found.why_no_error


@given(st.integers(1, 6))
def test_equal_directions_have_full_rank(size):
    features = torch.cat([torch.eye(size), -torch.eye(size)]).double()
    for center in (False, True):
        assert math.isclose(
            rankme(features, epsilon=0.0, center=center).value, size, rel_tol=1e-9
        )
    for kind in ("entropy", "participation", "stable"):
        assert math.isclose(effective_rank(features, kind).value, size, rel_tol=1e-9)


def test_rankme_is_the_entropy_of_its_convention():
    features = normal(40, 5) @ torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5]).double())
    sizes = torch.linalg.svdvals(features)
    for spectrum, values in (("singular", sizes), ("eigen", sizes**2)):
        share = values / values.sum()
        want = math.exp(-float((share * share.log()).sum()))
        found = rankme(features, spectrum=spectrum)
        assert math.isclose(found.value, want, rel_tol=1e-4)
        assert found.stderr > 0
    assert rankme(features, center=True).value != rankme(features).value


def test_ranks_do_not_see_rotation_or_scale():
    features = normal(30, 4) @ torch.diag(torch.tensor([4.0, 2, 1, 1]).double())
    other = 3 * features @ rotation(4)
    for measure in (rankme, effective_rank, lambda f: alpha_req(f, first=1, last=4)):
        assert math.isclose(measure(features).value, measure(other).value, rel_tol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_alpha_is_recovered_from_a_power_law(alpha):
    places = torch.arange(1, 61, dtype=torch.float64)
    features = normal(6000, 60) * places ** (-alpha / 2)
    found = alpha_req(features, folds=4)
    assert abs(found.value - alpha) < 0.05


def _collapsed(spread, counts=(8, 8, 8), seed=0):
    simplex = torch.eye(3).double() - 1 / 3
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    means = simplex @ rotation(3, seed)
    return means[labels] + spread * normal(len(labels), 3, seed=seed), labels, means


def test_collapse_is_zero_on_a_simplex_and_grows_with_scatter():
    features, labels, means = _collapsed(0.0)
    found = neural_collapse(features, labels, means)
    for value in (found.within, found.norms, found.angles, found.self_dual, found.nearest):
        assert abs(value.value) < 1e-7
    assert math.isclose(found.orthogonal.value, 0.5, rel_tol=1e-9)
    small, large = (neural_collapse(*_collapsed(s)[:2]).within.value for s in (0.01, 0.1))
    assert math.isclose(large, 100 * small, rel_tol=0.1)
    assert "no classifier" in found.nearest.why_no_error if found.nearest.why_no_error else True


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_in_every_part_of_the_jackknife(seed):
    features, labels, means = _collapsed(0.1, counts=(40, 40, 2))
    found = neural_collapse(features, labels, means, seed=seed)
    for value in (found.within, found.angles, found.self_dual, found.nearest):
        assert math.isfinite(value.stderr)
    assert found.counts == (40, 40, 2)


def test_within_is_the_trace_of_its_definition():
    features, labels, _ = _collapsed(0.3, counts=(4, 6, 10))
    for balanced in (True, False):
        counts = torch.bincount(labels).double()
        shares = torch.full((3,), 1 / 3).double() if balanced else counts / counts.sum()
        means = torch.stack([features[labels == c].mean(0) for c in range(3)])
        center = shares @ means
        between = sum(
            shares[c] * torch.outer(means[c] - center, means[c] - center) for c in range(3)
        )
        within = sum(
            shares[c] * torch.cov(features[labels == c].T, correction=0) for c in range(3)
        )
        want = float(torch.trace(within @ torch.linalg.pinv(between, rtol=1e-9))) / 3
        found = neural_collapse(features, labels, balanced=balanced).within
        assert math.isclose(found.value, want, rel_tol=1e-6)
        assert found.stderr > 0


def test_collapse_does_not_see_rotation_shift_or_scale():
    features, labels, means = _collapsed(0.2)
    other = 2 * features @ rotation(3, 5) + 1
    a, b = (neural_collapse(f, labels) for f in (features, other))
    for name in ("within", "norms", "angles"):
        assert math.isclose(getattr(a, name).value, getattr(b, name).value, rel_tol=1e-6)
    assert neural_collapse(features, labels, -means).nearest.value > 0.9


def test_cka_knows_equal_and_unrelated():
    x, y = normal(60, 5), normal(60, 5, seed=9)
    assert math.isclose(cka(x, 2 * x @ rotation(5)).value, 1.0, rel_tol=1e-9)
    wide, other = normal(20, 400), normal(20, 400, seed=9)
    assert cka(wide, other, debiased=False).value > 0.8
    unrelated = cka(wide, other)
    assert abs(unrelated.value) < 0.15
    low, high = cka(x, y).interval(0.999)
    assert low <= 0 <= high or abs(cka(x, y).value) < 0.1
    assert math.isclose(cka(x, y).value, cka(y, x).value, rel_tol=1e-9)


def test_debiased_alignment_is_the_average_over_quadruples():
    # The unbiased estimator equals the U-statistic; on five examples it can be spelled out.
    x, y = normal(5, 2), normal(5, 3, seed=4)
    from itertools import permutations

    from lossatlas.curvature.similarity import _unbiased

    k, m = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(5), 4)
    ]
    assert math.isclose(_unbiased(k, m), float(np.mean(terms)), rel_tol=1e-9)


def test_results_come_back_from_files(tmp_path):
    features, labels, means = _collapsed(0.2)
    found = neural_collapse(features, labels, means)
    assert repr(io.load(io.save(found, tmp_path / "c.nc"))) == repr(found)


def test_wrong_input_is_named():
    with pytest.raises(DataError, match=r"\(examples, features\)"):
        rankme(torch.zeros(3))
    with pytest.raises(NonFiniteError, match="feature is NaN"):
        rankme(torch.full((3, 3), math.nan))
    with pytest.raises(UnknownNameError, match="did you mean 'eigen'"):
        rankme(torch.eye(3), spectrum="eigne")
    with pytest.raises(UnknownNameError, match="`kind`"):
        effective_rank(torch.eye(3), "rank")
    with pytest.raises(ArgumentError, match="three ranks"):
        alpha_req(torch.eye(4))
    with pytest.raises(DataError, match="two examples each"):
        neural_collapse(normal(3, 2), torch.tensor([0, 0, 1]))
    with pytest.raises(DataError, match="`labels`"):
        neural_collapse(normal(3, 2), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="`weight`"):
        neural_collapse(normal(4, 2), torch.tensor([0, 0, 1, 1]), torch.zeros(3, 2))
    with pytest.raises(DataError, match="must match"):
        cka(normal(6, 2), normal(5, 2))
    with pytest.raises(ArgumentError, match="five examples"):
        cka(normal(4, 2), normal(4, 2))
    assert math.isnan(rankme(torch.zeros(4, 2)).value)
    assert math.isnan(effective_rank(torch.ones(4, 2), "stable").value)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_alpha_ends_at_the_numerical_rank(kind):
    # 24 directions that follow a power law, in 64 features: what lies beyond is rounding.
    places = torch.arange(1, 25, dtype=torch.float64)
    thin = normal(2000, 24) * places**-0.5
    features = (thin.to(kind) @ normal(24, 64).to(kind)).double()
    assert abs(alpha_req(features).value - alpha_req(thin @ normal(24, 64)).value) < 1e-3
    assert alpha_req(features).value < 3
    beyond = alpha_req(features, last=40)
    assert math.isnan(beyond.value)
    assert "rank 24 within rounding" in beyond.why_no_error
    flat = alpha_req((thin[:, :3].to(kind) @ normal(3, 64).to(kind)).double())
    assert math.isnan(flat.value)
    assert "rank 3 within rounding" in flat.why_no_error
