"""The learning coefficient against closed forms and quadrature."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import learning_coefficient
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError, UnknownNameError
from lossatlas.linalg.chains import mean_of_chains, subtract_control
from lossatlas.result import Estimate
from lossatlas.weights import symmetries
from reference import linear_networks

EXAMPLES = 1000
BETA = EXAMPLES / math.log(EXAMPLES)
CURVATURES = torch.logspace(-3, 1, 20, dtype=torch.float64)


class Point(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def potential(function, start, examples=EXAMPLES):
    """A loss that is a function of the weights, the same for every example."""
    zeros = torch.zeros(examples, dtype=torch.float64)
    return la.Objective(
        Point(start), lambda model, batch: function(model.w) + 0 * batch, [zeros]
    )


def quadratic():
    return potential(lambda w: (CURVATURES * w * w).sum() / 2, [0.0] * 20)


def within(found, truth, errors=3.5):
    return abs(found.value - truth) <= errors * found.stderr


@pytest.mark.parametrize("step", [0.4, 1.6, 3.0])
def test_a_quadratic_has_its_formula_at_every_step(step):
    found = learning_coefficient(quadratic(), 2, 900, localization=100.0, step=step)
    stiff = BETA * CURVATURES + 100
    truth = float((BETA * CURVATURES / stiff).sum() / 2)
    assert found.twin.value == pytest.approx(truth)
    assert within(found.value, truth)
    assert found.mixed
    assert found.value.stderr < 0.06 * truth + 0.03
    # Plain Langevin steps would have this mean.
    plain = BETA * CURVATURES / (stiff * (1 - step / float(stiff.max()) * stiff / 4))
    if step > 1:
        assert not within(found.value, float(plain.sum() / 2))


def walked(draws, hold, chains=2, step=0.4, lengths=20):
    """The chain of the instrument on the quadratic, many at a time: losses and controls."""
    rng, curvatures = np.random.default_rng(0), CURVATURES.numpy()
    length = step / (BETA * curvatures.max() + hold)
    slowest = max(1 / (length * hold), 10)
    point, rows = np.zeros((draws, chains, 20)), []
    kick = rng.standard_normal(point.shape)
    for index in range(math.ceil(5 * slowest) + math.ceil(lengths * slowest)):
        gradient = curvatures * point
        drift = BETA * gradient + hold * point
        if index >= 5 * slowest:
            rows.append((BETA * (point * gradient).sum(-1) / 2, (point * drift).sum(-1) - 20))
        last, kick = kick, rng.standard_normal(point.shape)
        # As the paper has it: each step has the mean of two draws.
        point = point - length / 2 * drift + math.sqrt(length) / 2 * (last + kick)
    truth = float((BETA * curvatures / (BETA * curvatures + hold)).sum() / 2)
    return np.moveaxis(np.array(rows), 0, -1), truth


def test_intervals_cover_and_the_control_shortens_them():
    (rises, controls), truth = walked(300, 1000.0, chains=4, lengths=40)
    plain = [mean_of_chains(each)[0] for each in rises]
    pairs = zip(rises, controls, strict=True)
    found = [mean_of_chains(*subtract_control(*each))[0] for each in pairs]
    inside = np.mean([e.interval()[0] <= truth <= e.interval()[1] for e in found])
    assert 0.92 <= inside <= 0.98
    values = np.array([e.value for e in found])
    assert abs(values.mean() - truth) < 3.5 * values.std() / math.sqrt(300)
    assert values.std() < 0.97 * np.std([e.value for e in plain])


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_stated_error_of_one_weight_is_not_below_rounding(offset, seed):
    # The control takes off all scatter of an isotropic bowl; in single precision the rest is
    # rounding, which all draws share.
    zeros = torch.zeros(EXAMPLES)
    bowl = la.Objective(
        Point([0.0]).float(), lambda m, b: m.w.square().sum() + offset + 0 * b, [zeros]
    )
    found = learning_coefficient(bowl, 2, 900, localization=300.0, seed=seed)
    truth = BETA / (2 * BETA + 300)
    assert abs(found.value.value - truth) <= 3.5 * found.value.stderr
    assert found.value.stderr < 1e-3 * truth


def test_few_batch_means_have_no_control():
    series = np.random.default_rng(0).normal(size=(1, 150))
    assert subtract_control(series, 2 * series)[0] is series
    longer = np.random.default_rng(0).normal(size=(4, 400))
    found, slower = subtract_control(longer, 2 * (longer - longer.mean()))
    assert slower >= 1
    assert np.allclose(found, longer.mean())


@pytest.mark.parametrize("hold", [30.0, 100.0])
@pytest.mark.parametrize("kind", ["quartic", "product"])
def test_singular_minima_agree_with_quadrature(kind, hold):
    x = np.linspace(-3, 3, 3001)
    if kind == "quartic":
        objective = potential(lambda w: (w**4).sum(), [0.0])
        energy, squares = BETA * x**4, x * x
    else:
        objective = potential(lambda w: (w[0] * w[1]) ** 2, [0.0, 0.0])
        first, second = np.meshgrid(x[::5], x[::5])
        energy, squares = BETA * (first * second) ** 2, first**2 + second**2
    density = np.exp(-energy - hold * squares / 2)
    truth = float((density * energy).sum() / density.sum())
    found = learning_coefficient(objective, 2, localization=hold, draws=800, step=0.3)
    assert within(found.value, truth)
    assert found.twin.value == 0
    assert "twin is zero" in found.anharmonicity.why_no_error


def test_linear_networks_agree_with_quadrature_whose_limit_is_aoyagi():
    widths, strength = (3, 2, 3), 1.0
    limit = linear_networks.aoyagi(widths, 0)
    assert limit == 2.5
    assert linear_networks.two_hidden(3, 3, 1e8) == pytest.approx(limit, abs=1e-3)
    network = linear_networks.LinearNetwork(widths)
    zeros = torch.zeros(EXAMPLES, dtype=torch.float64)
    objective = la.Objective(network, lambda model, batch: model(batch), [zeros])
    found = learning_coefficient(
        objective, 2, 1000, localization=1.0, temperature=EXAMPLES / strength, step=1.0
    )
    truth = linear_networks.two_hidden(3, 3, strength)
    assert within(found.value, truth)
    assert found.value.stderr < 0.1 * truth


@pytest.mark.parametrize("widths", [(3, 1, 1, 3), (2, 2, 2, 2)])
def test_three_matrices_agree_with_quadrature(widths):
    strength = 1.0
    network = linear_networks.LinearNetwork(widths)
    zeros = torch.zeros(EXAMPLES, dtype=torch.float64)
    objective = la.Objective(network, lambda model, batch: model(batch), [zeros])
    found = learning_coefficient(
        objective, 2, 1200, localization=1.0, temperature=EXAMPLES / strength, step=1.0
    )
    truth, error = linear_networks.three_hidden(widths, strength)
    assert error < 0.01 * truth
    assert abs(found.value.value - truth) <= 3.5 * math.hypot(found.value.stderr, error)
    assert found.value.stderr < 0.1 * truth


@pytest.mark.parametrize(("ends", "limit"), [(3, 0.5), (2, 0.5)])
def test_the_limit_of_three_matrices_is_aoyagi(ends, limit):
    assert linear_networks.aoyagi((ends, 1, 1, ends), 0) == limit
    assert linear_networks.narrow_chain(ends, 1e10) == pytest.approx(limit, abs=2e-3)
    sampled, error = linear_networks.three_hidden((ends, 1, 1, ends), 10.0)
    exact = linear_networks.narrow_chain(ends, 10.0)
    assert abs(sampled - exact) < 4 * error


@pytest.mark.parametrize(
    ("widths", "rank", "limit"),
    [
        ((1, 1, 1), 0, 0.5),  # (w1 w2)^2
        ((4, 3), 0, 6.0),  # one matrix: half of its entries
        ((3, 2, 3), 1, 3.5),
        ((2, 5, 2), 0, 2.0),  # a wide middle: half of the product's entries
        ((5, 1, 5), 1, 4.5),
        ((2, 2, 2, 2), 0, 1.5),  # three matrices
        ((4, 4, 2, 4, 4), 2, 6.0),
    ],
)
def test_the_closed_form_of_linear_networks(widths, rank, limit):
    assert linear_networks.aoyagi(widths, rank) == limit


def trained():
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs = torch.randn(120, 4, generator=draw)
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] + inputs[:, 2] > 0).long()
    flip = torch.rand(120, generator=draw) < 0.25
    targets[flip] = torch.randint(0, 3, (int(flip.sum()),), generator=draw)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300)

    def closure():
        optimizer.zero_grad()
        weights = sum(p.square().sum() for p in model.parameters())
        loss = F.cross_entropy(model(inputs), targets) + 1e-3 * weights
        loss.backward()
        return loss

    optimizer.step(closure)
    return la.Objective(model, la.supervised(F.cross_entropy), [(inputs, targets)])


def test_at_strong_localization_it_is_the_quadratic_twin():
    found = learning_coefficient(trained(), 2, 800, localization=1000.0)
    assert found.twin.value > 0.1
    assert abs(found.anharmonicity.value - 1) <= 4 * found.anharmonicity.stderr + 0.1


class Last(nn.Module):
    """The outputs of a recurrent layer, at the last step."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


MODELS = {
    "relu": (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), (3,)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Conv2d(4, 2, 2)),
        (1, 4, 4),
    ),
    "lstm": (Last, (5, 3)),
    "attention": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
        (3, 4),
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_no_symmetry_of_any_model_changes_it(kind):
    make, shape = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = make().double().eval(), torch.randn(24, *shape).double()
    # A minimum: the targets are what the model says.
    batch = inputs, model(inputs).detach()
    loss = la.supervised(
        lambda outputs, targets: 1 + (outputs - targets).square().flatten(1).sum(1)
    )
    objective = la.Objective(model, loss, [batch], check=False)
    group = symmetries(objective)
    assert group.groups
    options = {"localization": 60.0, "step": 1.0, "curvature": "gauss_newton"}
    found = [
        learning_coefficient(objective, 1, 220, params=params, **options)
        for params in (objective.params, group.apply(objective.params, group.random(3)))
    ]
    first, second = found
    assert second.twin.value == pytest.approx(first.twin.value, rel=1e-6)
    error = math.hypot(first.value.stderr, second.value.stderr)
    assert abs(first.value.value - second.value.value) <= 3.5 * error


def test_mini_batches_give_the_same_number_where_they_are_quiet():
    # Zero loss at the weights: every batch has its minimum there.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs = torch.randn(512, 3, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    batches = [(part, torch.zeros(64, 1).double()) for part in inputs.split(64)]
    objective = la.Objective(model, la.supervised(F.mse_loss), batches)
    whole = learning_coefficient(objective, 2, 400, 100.0, step=1.0)
    part = learning_coefficient(objective, 2, 800, 100.0, step=1.0, minibatches=True)
    assert within(whole.value, whole.twin.value)
    assert abs(part.value.value / part.twin.value - 1) < 0.1


def test_noisy_batches_are_refused():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs, targets = torch.randn(400, 3).double(), 30 * torch.randn(400, 1).double()
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(inputs, targets).solution.T)
    batches = list(zip(inputs.split(4), targets.split(4), strict=True))
    objective = la.Objective(model, la.supervised(F.mse_loss), batches)
    with pytest.raises(ArgumentError, match=r"batches are too noisy: .* batches of [0-9,]+ ex"):
        learning_coefficient(objective, minibatches=True)


def test_weights_that_are_not_at_a_minimum_are_refused():
    slope = potential(lambda w: 10 * w.sum() + w.square().sum(), [1.0, 1.0])
    with pytest.raises(ModelError, match="not at a minimum: one gradient step lowers the loss"):
        learning_coefficient(slope)
    top = potential(lambda w: -w.square().sum() + w.pow(4).sum(), [0.0, 0.0])
    with pytest.raises(ModelError, match="the chains find lower losses"):
        learning_coefficient(top, 2, localization=30.0, draws=1300)


def test_a_coefficient_is_negative_only_within_its_error():
    found = learning_coefficient(quadratic(), 1, 900, localization=100.0)
    below = replace(found, value=Estimate(-0.1, 0.2, samples=30))
    assert "not below zero by more than its error" in below.sentences()[0]
    assert "below zero" not in found.sentences()[0]


def test_weights_that_are_nan_or_walks_that_end_there_are_named():
    lost = quadratic()
    with torch.no_grad():
        lost.model.w[3] = math.nan
    with pytest.raises(NonFiniteError):
        learning_coefficient(lost)
    wall = potential(lambda w: w.square().sum() + 0 / (w.abs().max() < 0.3), [0.0])
    with pytest.raises(NonFiniteError, match="smaller `step` or a larger"):
        learning_coefficient(wall, localization=3.0, temperature=300.0)


def test_it_is_measured_at_other_weights_without_moving_the_model():
    objective = potential(lambda w: ((w - 2) ** 2).sum() / 2, [0.0, 0.0])
    there = {"w": torch.full((2,), 2.0, dtype=torch.float64)}
    with pytest.raises(ModelError, match="not at a minimum"):
        learning_coefficient(objective)
    found = learning_coefficient(objective, 4, localization=50.0, params=there)
    assert found.twin.value == pytest.approx(BETA / (BETA + 50))
    # The control of an isotropic bowl is all of its scatter.
    assert found.value.value == pytest.approx(found.twin.value, rel=1e-6)
    assert found.value.stderr < 1e-6
    assert not objective.params["w"].any()


def test_slow_chains_are_refused_with_the_number_of_draws_they_need():
    with pytest.raises(ArgumentError, match=r"`draws` must be at least 7[0-9],.* slowest time"):
        learning_coefficient(quadratic(), localization=1.0, draws=6000)
    with pytest.raises(ArgumentError, match="at most 200,000; more than 200,000"):
        learning_coefficient(quadratic(), localization=0.1)


def test_one_chain_has_an_error_and_one_example_needs_a_temperature():
    alone = learning_coefficient(quadratic(), 1, 900, localization=100.0)
    assert len(alone.chains) == 1
    assert alone.value.stderr > 0
    assert within(alone.value, alone.twin.value)
    single = potential(lambda w: w.square().sum(), [0.0], examples=1)
    with pytest.raises(ArgumentError, match="`temperature` is log n by default"):
        learning_coefficient(single)
    assert learning_coefficient(single, 1, 800, 1.0, 0.5).value.value > 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("chains", 0),
        ("draws", 0),
        ("localization", -1.0),
        ("temperature", 0.0),
        ("step", 4.0),
    ],
)
def test_odd_numbers_are_named(argument, value):
    with pytest.raises(ArgumentError, match=f"`{argument}`"):
        learning_coefficient(quadratic(), **{argument: value})


def test_same_seed_same_bits_and_the_weights_stay():
    objective = quadratic()
    before = objective.params["w"].clone()
    options = {"localization": 300.0, "draws": 300, "chains": 1}
    first, second = (learning_coefficient(objective, **options) for _ in range(2))
    assert first == second
    assert first != learning_coefficient(objective, seed=1, **options)
    assert torch.equal(objective.params["w"], before)
    assert first.sentences()[0].startswith("The local learning coefficient is")


def test_gauss_newton_takes_the_place_of_the_hessian():
    found = learning_coefficient(
        trained(), localization=1000.0, draws=600, chains=2, curvature="gauss_newton"
    )
    assert found.twin.value > 0.1
    assert found.anharmonicity.value == pytest.approx(1, abs=0.4)
    with pytest.raises(UnknownNameError, match="`curvature`"):
        learning_coefficient(quadratic(), curvature="none")
