"""Effective parameters and evidence against Bayesian linear regression, which is exact."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import effective_parameters, eigenvalue_sums
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError, UnknownNameError
from lossatlas.rng import generator

NOISE, PRIOR = 0.5, 2.0


def likelihood(model, batch):
    """Negative log likelihood of squared errors in nats, one an example."""
    errors = (model(batch[0]) - batch[1]).square().sum(1)
    return errors / (2 * NOISE**2) + math.log(2 * math.pi * NOISE**2) / 2


def regression(features, examples=40, at="mode"):
    draw = torch.Generator().manual_seed(features)
    inputs = torch.randn(examples, features, generator=draw, dtype=torch.float64)
    inputs *= torch.logspace(-2, 1, features)
    truth = torch.randn(features, 1, generator=draw, dtype=torch.float64)
    targets = inputs @ truth + NOISE * torch.randn(examples, 1, generator=draw).double()
    model = nn.Linear(features, 1, bias=False).double()
    precision = inputs.T @ inputs / NOISE**2 + PRIOR * torch.eye(features).double()
    mode = torch.linalg.solve(precision, inputs.T @ targets / NOISE**2)
    with torch.no_grad():
        model.weight.copy_(mode.T if at == "mode" else torch.ones_like(mode).T)
    objective = la.Objective(
        model,
        likelihood,
        list(zip(inputs.split(examples // 2), targets.split(examples // 2), strict=True)),
    )
    return objective, inputs, targets


def exact(inputs, targets):
    gram = inputs.T @ inputs / NOISE**2
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    cover = inputs @ inputs.T / PRIOR + NOISE**2 * torch.eye(len(inputs)).double()
    evidence = multivariate_normal(cov=cover.numpy()).logpdf(targets.flatten().numpy())
    return float((values / (values + PRIOR)).sum()), float(evidence)


@pytest.mark.parametrize("at", ["mode", "elsewhere"])
@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
def test_linear_regression_is_exact_at_any_weights(kind, at):
    objective, inputs, targets = regression(12, at=at)
    found = effective_parameters(objective, PRIOR, curvature=kind)
    count, evidence = exact(inputs, targets)
    assert found.effective.value == pytest.approx(count, rel=1e-8)
    assert found.log_evidence.value == pytest.approx(evidence, rel=1e-6)
    assert (found.gain.value < 1e-8) == (at == "mode")
    assert (found.parameters, found.examples) == (12, 40)


def test_probes_agree_with_all_eigenvalues_within_their_error(monkeypatch):
    objective, inputs, targets = regression(100, examples=160)
    count, evidence = exact(inputs, targets)
    every = effective_parameters(objective, PRIOR)
    assert every.effective.value == pytest.approx(count, rel=1e-8)
    assert every.log_evidence.value == pytest.approx(evidence, rel=1e-6)
    assert every.effective.stderr == every.log_determinant.stderr == 0
    floors = []

    class Rest(eigenvalue_sums._Rest):
        def sums(self, *given):
            floors.append(self.floor)
            return super().sums(*given)

    monkeypatch.setattr(eigenvalue_sums, "_DENSE", 50)
    monkeypatch.setattr(eigenvalue_sums, "_DENSE_AT_MOST", 50)
    monkeypatch.setattr(eigenvalue_sums, "_Rest", Rest)
    found = effective_parameters(objective, PRIOR, probes=16)
    for estimate, truth in ((found.effective, count), (found.log_evidence, evidence)):
        assert 0 < estimate.stderr < 0.02 * abs(truth)
        low, high = estimate.interval(0.999)
        assert low <= truth <= high
    # A node below the spectrum would stand beyond the pole at -prior / n.
    assert max(map(abs, floors)) < PRIOR / 160 / 100


def test_where_probes_cost_more_all_eigenvalues_are_computed():
    objective, inputs, targets = regression(700, examples=60)
    count, evidence = exact(inputs, targets)
    found = effective_parameters(objective, PRIOR)
    assert found.effective.value == pytest.approx(count, rel=1e-8)
    assert found.log_evidence.value == pytest.approx(evidence, rel=1e-5)


def test_probes_are_added_until_the_tolerance_is_reached(monkeypatch):
    objective, inputs, targets = regression(100, examples=160)
    count, _ = exact(inputs, targets)
    monkeypatch.setattr(eigenvalue_sums, "_DENSE", 50)
    monkeypatch.setattr(eigenvalue_sums, "_DENSE_AT_MOST", 50)
    few, many, most = (
        effective_parameters(objective, PRIOR, probes=2, tolerance=tolerance).effective
        for tolerance in (1.0, 0.02, 1e-9)
    )
    assert (few.samples, most.samples) == (2, 16)
    assert few.reached
    assert not most.reached
    assert many.stderr <= 0.02 * many.value or many.samples == 16
    low, high = most.interval(0.999)
    assert low <= count <= high


@pytest.mark.parametrize("lowest", [0.0, -0.5])
def test_each_probe_lies_between_its_brackets(lowest):
    # A statistic with a pole below the spectrum, as n H / (n H + prior) has one.
    values = torch.linspace(lowest, 40.0, 80, dtype=torch.float64)
    matrix = SimpleNamespace(
        size=80, dtype=torch.float64, device="cpu", flat=lambda v: values * v,
        zeros=lambda: torch.zeros(80, dtype=torch.float64),
    )  # fmt: skip
    statistic = lambda h: h / (1 + h)  # noqa: E731
    for index in range(4):
        ((middle, half),) = eigenvalue_sums._Rest(matrix, [], lowest).sums(
            (statistic,), 0, index
        )
        draw = generator(0, "sums", index)
        start = torch.randn(80, generator=draw, dtype=torch.float64).square()
        truth = 80 * float((start * statistic(values)).sum() / start.sum())
        assert abs(middle - truth) <= half + 1e-9
        assert half < 0.01 * abs(truth)


def network(trained=True, prior=1.0):
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs = torch.randn(90, 4, generator=draw)
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300 if trained else 1)

    def closure():
        optimizer.zero_grad()
        weights = sum(p.square().sum() for p in model.parameters())
        loss = F.cross_entropy(model(inputs), targets) + prior / 180 * weights
        loss.backward()
        return loss

    optimizer.step(closure)
    return la.Objective(model, la.supervised(F.cross_entropy), [(inputs, targets)])


def test_the_last_layer_and_all_layers_of_a_network():
    objective = network()
    last = effective_parameters(objective, 1.0, names="last")
    whole = effective_parameters(objective, 1.0)
    assert (last.parameters, whole.parameters) == (21, 51)
    assert last.names == ("2.weight", "2.bias")
    # The softmax leaves one direction a feature free, which the prior alone determines.
    assert 0 < last.effective.value < 14 + 1e-4
    assert last.effective.value < whole.effective.value < 51
    assert math.isfinite(whole.log_evidence.value)
    assert "MacKay's next prior precision" in whole.sentences()[1]


def test_a_larger_prior_leaves_less_to_the_data():
    objective = network()
    counts = [effective_parameters(objective, a).effective.value for a in (0.1, 1.0, 10.0)]
    assert counts == sorted(counts, reverse=True)


def test_weights_far_from_the_maximum_have_a_reason():
    objective = network(trained=False)
    with torch.no_grad():
        for value in objective.model.parameters():
            value.mul_(8)
    found = effective_parameters(objective, 1.0)
    assert math.isnan(found.log_evidence.value)
    assert "not at a maximum of the posterior" in found.log_evidence.why_no_error
    with pytest.raises(ModelError, match="the posterior is no bowl"):
        effective_parameters(objective, 1e-3, curvature="hessian")


def test_one_example_determines_one_parameter_at_most():
    objective, inputs, targets = regression(6, examples=2)
    single = la.Objective(objective.model, likelihood, [(inputs[:1], targets[:1])])
    found = effective_parameters(single, PRIOR)
    count, evidence = exact(inputs[:1], targets[:1])
    assert found.effective.value == pytest.approx(count)
    assert count < 1
    assert found.log_evidence.value == pytest.approx(evidence)


def test_bad_input_is_named():
    objective = network()
    for prior in (0.0, -1.0, math.nan):
        with pytest.raises(ArgumentError, match="`prior`"):
            effective_parameters(objective, prior)
    with pytest.raises(UnknownNameError, match="`names`"):
        effective_parameters(objective, 1.0, names="nowhere.*")
    with pytest.raises(ArgumentError, match="`objective`"):
        effective_parameters(None, 1.0)
    with torch.no_grad():
        objective.model[0].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        effective_parameters(objective, 1.0)
