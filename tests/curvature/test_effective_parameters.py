"""Effective parameters and evidence against Bayesian linear regression, which is exact."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import (
    all_eigenvalues,
    effective_parameters,
    eigenvalue_sums,
    gauss_newton,
    hessian,
)
from lossatlas.curvature.all_eigenvalues import eigenvalues_in_range, range_products
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError, UnknownNameError
from lossatlas.rng import generator

NOISE, PRIOR = 0.5, 2.0


def likelihood(model, batch):
    """Negative log likelihood of squared errors in nats, one an example."""
    errors = (model(batch[0]) - batch[1]).square().sum(1)
    return errors / (2 * NOISE**2) + math.log(2 * math.pi * NOISE**2) / 2


def regression(features, examples=40, at="mode", batches=2):
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
        list(
            zip(
                inputs.split(examples // batches),
                targets.split(examples // batches),
                strict=True,
            )
        ),
    )
    return objective, inputs, targets


def exact(inputs, targets):
    gram = inputs.T @ inputs / NOISE**2
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    cover = inputs @ inputs.T / PRIOR + NOISE**2 * torch.eye(len(inputs)).double()
    evidence = multivariate_normal(cov=cover.numpy()).logpdf(targets.flatten().numpy())
    return float((values / (values + PRIOR)).sum()), float(evidence)


def exact_by_examples(inputs, targets):
    """The same from the matrix of the examples, which is small where they are few."""
    gram = inputs @ inputs.T
    cover = gram / PRIOR + NOISE**2 * torch.eye(len(inputs)).double()
    evidence = multivariate_normal(cov=cover.numpy()).logpdf(targets.flatten().numpy())
    values = torch.linalg.eigvalsh(gram / NOISE**2).clamp(min=0)
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
    objective, inputs, targets = regression(100, examples=160, batches=1)
    count, evidence = exact(inputs, targets)
    every = effective_parameters(objective, PRIOR)
    assert every.effective.value == pytest.approx(count, rel=1e-8)
    assert every.log_evidence.value == pytest.approx(evidence, rel=1e-6)
    assert every.effective.stderr == every.log_determinant.stderr == 0
    assert every.effective.error < 1e-8 * count
    assert every.effective.products == 100
    floors = []

    class Rest(eigenvalue_sums._Rest):
        def sums(self, *given):
            floors.append(self.floor)
            return super().sums(*given)

    monkeypatch.setattr(eigenvalue_sums, "DENSE", 50)
    monkeypatch.setattr(all_eigenvalues, "DENSE_AT_MOST", 50)
    monkeypatch.setattr(eigenvalue_sums, "_Rest", Rest)
    found = effective_parameters(objective, PRIOR, probes=16)
    for estimate, truth in ((found.effective, count), (found.log_evidence, evidence)):
        assert 0 < estimate.stderr < 0.02 * abs(truth)
        low, high = estimate.interval(0.999)
        assert low <= truth <= high
    # A node below the spectrum would stand beyond the pole at -prior / n.
    assert max(map(abs, floors)) < PRIOR / 160 / 100


def test_where_probes_cost_more_all_eigenvalues_are_computed():
    # A range of more than half of all directions is of no use.
    objective, inputs, targets = regression(700, examples=400, batches=1)
    count, evidence = exact(inputs, targets)
    found = effective_parameters(objective, PRIOR)
    assert found.effective.value == pytest.approx(count, rel=1e-8)
    assert found.log_evidence.value == pytest.approx(evidence, rel=1e-5)


@pytest.mark.parametrize("kind", ["gauss_newton", "empirical_fisher"])
def test_few_outputs_give_all_eigenvalues_of_many_parameters(kind, monkeypatch):
    objective, inputs, targets = regression(800, examples=60, batches=1)
    options = {"curvature": kind, "seed": 0}
    monkeypatch.setattr(eigenvalue_sums, "dense_eigenvalues", None)
    found = effective_parameters(objective, PRIOR, **options)
    assert found.effective.stderr == found.log_determinant.stderr == 0
    assert found.effective.error < 1e-8 * found.effective.value
    # Twice the 60 outputs and 8 more, and one that looks whether they are enough.
    assert found.effective.products == 2 * 68 + 1
    monkeypatch.undo()
    monkeypatch.setattr(eigenvalue_sums, "range_products", lambda *_: None)
    monkeypatch.setattr(eigenvalue_sums, "DENSE", 800)
    dense = effective_parameters(objective, PRIOR, **options)
    assert found.effective.value == pytest.approx(dense.effective.value, rel=1e-8)
    assert found.log_determinant.value == pytest.approx(dense.log_determinant.value, rel=1e-8)
    if kind == "gauss_newton":
        count, evidence = exact(inputs, targets)
        assert found.effective.value == pytest.approx(count, rel=1e-8)
        assert found.log_evidence.value == pytest.approx(evidence, rel=1e-5)


def test_evidence_of_more_weights_than_are_ever_computed_densely_is_within_a_percent():
    objective, inputs, targets = regression(4200, examples=150)
    count, evidence = exact_by_examples(inputs, targets)
    found = effective_parameters(objective, PRIOR)
    assert found.parameters > all_eigenvalues.DENSE_AT_MOST
    assert found.effective.value == pytest.approx(count, rel=0.01)
    assert found.log_evidence.value == pytest.approx(evidence, rel=0.01)


def test_a_range_that_is_larger_than_thought_is_not_trusted(monkeypatch):
    objective, inputs, targets = regression(800, examples=60, batches=1)
    matrix = gauss_newton(objective)
    assert range_products(matrix, None) == 2 * (60 + 8)
    assert range_products(hessian(objective), None) is None
    assert eigenvalues_in_range(matrix, 2 * 50, 0) is None
    assert len(eigenvalues_in_range(matrix, 2 * 60, 0).values) == 60
    monkeypatch.setattr(eigenvalue_sums, "range_products", lambda *_: 40)
    found = effective_parameters(objective, PRIOR)
    assert found.effective.value == pytest.approx(exact(inputs, targets)[0], rel=1e-8)
    monkeypatch.setattr(all_eigenvalues, "DENSE_AT_MOST", 50)
    probed = effective_parameters(objective, PRIOR)
    assert probed.effective.stderr > 0
    low, high = probed.effective.interval(0.999)
    assert low <= found.effective.value <= high


def perceptron(dtype, seed, **options):
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)
    ).double()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=draw, dtype=torch.float64))
    inputs = torch.randn(32, 4, generator=draw, dtype=torch.float64)
    batch = inputs.to(dtype), torch.randint(3, (32,), generator=draw)
    return la.Objective(
        model.to(dtype), la.supervised(F.cross_entropy), [batch], check=False, **options
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prior", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"in_place": True, "derivatives": "differences"}],
    ids=["exact", "differences"],
)
def test_rounding_is_said_where_all_eigenvalues_are_computed(seed, prior, options):
    truth = effective_parameters(perceptron(torch.float64, seed), prior)
    found = effective_parameters(perceptron(torch.float32, seed, **options), prior)
    for name in ("effective", "log_determinant"):
        exact_one, rounded = getattr(truth, name), getattr(found, name)
        assert exact_one.error < 1e-5 * exact_one.value
        low, high = rounded.interval()
        assert low <= exact_one.value <= high
        assert rounded.error > 10 * exact_one.error
    if prior == 1.0:
        # Not so wide that it says nothing.
        assert found.effective.error < 0.1 * found.effective.value


def test_what_rounding_puts_across_a_pole_has_a_reason():
    found = all_eigenvalues.Eigenvalues(np.array([-1e-9, 0.0, 1.0]), 1e-7)
    statistic = lambda h: 1e8 * h / (1 + 1e8 * h)  # noqa: E731
    inside = eigenvalue_sums._with_bound(statistic, found, -math.inf, 5)
    assert "across a pole" in inside.why_no_error
    assert math.isnan(inside.error)
    known = all_eigenvalues.Eigenvalues(np.array([0.0, 0.0, 1.0]), 1e-7)
    clear = eigenvalue_sums._with_bound(statistic, known, 0.0, 5)
    # Two at 10 / 11 at the most, and what is left of the third.
    assert clear.bound == pytest.approx(2 * 10 / 11, rel=1e-6)


def test_where_the_range_does_not_fit_probes_are_taken(monkeypatch):
    objective, inputs, targets = regression(4200, examples=150)
    count, _ = exact_by_examples(inputs, targets)
    matrix = gauss_newton(objective)
    assert range_products(matrix, None) == 2 * 158
    held = all_eigenvalues.range_bytes(4200, 158, torch.float64)
    monkeypatch.setattr(all_eigenvalues, "free_together", lambda *_: int(2.01 * held))
    assert range_products(matrix, None) == 2 * 158
    monkeypatch.setattr(all_eigenvalues, "free_together", lambda *_: int(1.99 * held))
    assert range_products(matrix, None) is None
    found = effective_parameters(objective, PRIOR, probes=2, tolerance=1.0)
    assert found.effective.stderr > 0
    low, high = found.effective.interval(0.999)
    assert low <= count <= high


def test_the_largest_range_is_the_root_of_what_it_holds():
    for size, free in ((4200, 10**7), (4200, 10**6), (50000, 10**9), (700, 10**12), (9, 0)):
        most = all_eigenvalues.most_columns(size, torch.float32, free)
        known = all_eigenvalues.most_columns(size, torch.float32, None)
        fits = [
            k
            for k in range(known + 1)
            if all_eigenvalues.range_bytes(size, k, torch.float32) <= free / 2
        ]
        assert most == max(fits)


def test_outputs_that_a_batch_does_not_reach_count_as_none():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(40, 1, bias=False)

        def forward(self, x):
            return self.inner(x)

    def loss(model, batch):
        return model(batch).square().sum(1) if batch[0, 0] > 0 else batch.square().sum(1)

    batches = [torch.ones(3, 40), -torch.ones(2, 40)]
    objective = la.Objective(Sometimes(), loss, batches, check=False)
    assert range_products(gauss_newton(objective), None) == 2 * (3 + 8)


def test_probes_are_added_until_the_tolerance_is_reached(monkeypatch):
    objective, inputs, targets = regression(100, examples=160, batches=1)
    count, _ = exact(inputs, targets)
    monkeypatch.setattr(eigenvalue_sums, "DENSE", 50)
    monkeypatch.setattr(all_eigenvalues, "DENSE_AT_MOST", 50)
    few, many, most = (
        effective_parameters(objective, PRIOR, probes=2, tolerance=tolerance).effective
        for tolerance in (1.0, 0.02, 1e-9)
    )
    # The error comes from the first stage, whatever the second adds.
    assert few.samples == many.samples == most.samples == 2
    assert few.products < most.products
    assert few.reached
    assert not most.reached
    assert many.stderr <= 0.02 * many.value or not many.reached
    low, high = most.interval(0.999)
    assert low <= count <= high


class DrawnRest:
    """Probes that are normal numbers, two sums each, and cost one product."""

    matrix = SimpleNamespace(size=10**6)

    def __init__(self, draws, half=0.0):
        self.draws, self.half, self.products = draws, half, 0

    def sums(self, statistics, seed, index):
        self.products = max(self.products, index + 1)
        return [np.array([value, self.half]) for value in self.draws[index]]


def by_drawn_probes(draws, tolerance, probes=8, half=0.0):
    return eigenvalue_sums._by_probes(
        DrawnRest(draws, half), (), [0.0, 0.0], seed=0, probes=probes, tolerance=tolerance
    )


@pytest.mark.parametrize("seed", range(4))
def test_probes_come_in_two_stages_as_in_a_plain_loop(seed):
    draws = np.random.default_rng(seed).normal([100, 50], [6, 5], (64, 2))
    found = by_drawn_probes(draws, 0.015)
    wanted = 8
    for column in draws.T:
        first = column[:8]
        error = math.sqrt(sum((x - first.mean()) ** 2 for x in first) / 7)
        goal = 0.015 * (first.mean() - 2 * error / math.sqrt(8))
        wanted = max(wanted, math.ceil((error / goal) ** 2))
    count = min(wanted, 64)
    for estimate, column in zip(found, draws.T, strict=True):
        assert estimate.value == pytest.approx(column[:count].mean())
        assert estimate.stderr == pytest.approx(column[:8].std(ddof=1) / math.sqrt(count))
        assert (estimate.products, estimate.samples) == (count, 8)


@pytest.mark.parametrize(("probes", "tolerance"), [(2, 0.02), (8, 0.015), (8, 0.03)])
def test_intervals_hold_although_the_spread_decides_how_many_probes(probes, tolerance):
    random, count = np.random.default_rng(probes), 4000
    held = np.zeros(2)
    for _ in range(count):
        draws = random.normal([100, 100], [6, 8], (8 * probes, 2))
        for k, each in enumerate(by_drawn_probes(draws, tolerance, probes)):
            low, high = each.interval()
            held[k] += low <= 100 <= high
    # Five standard errors of a share; two units have a wider quantile than Student's t.
    assert (held / count > 0.95 - 5 * math.sqrt(0.95 * 0.05 / count)).all()


def test_brackets_that_probes_cannot_narrow_take_all_probes_and_say_it():
    draws = np.random.default_rng(0).normal(100, 1, (64, 2))
    found = by_drawn_probes(draws, 0.001, half=0.2)
    assert all(each.products == 64 and not each.reached for each in found)
    assert all(each.stderr > 0.2 for each in found)


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
