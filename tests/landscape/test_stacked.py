"""The engine of multilayer perceptrons, and what every engine must notice before it starts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, ModelError, UnknownNameError
from lossatlas.landscape.engines import Engine, Task, build, select

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3
CE = la.supervised(F.cross_entropy)


def perceptron(*between, bias=True, wide=8, out=3):
    torch.manual_seed(1)
    layers = [nn.Linear(6, wide, bias=bias), *between, nn.Linear(wide, out, bias=bias)]
    return nn.Sequential(*layers)


def maps(objective, **options):
    plane = la.random_plane(objective, seed=1, biases=True)
    options = {"points": 5, "adaptive": False, "span": 0.7} | options
    return [
        la.map_plane(objective, plane, engine=name, **options) for name in ("plain", "auto")
    ]


@pytest.mark.parametrize(
    "model",
    [
        perceptron(nn.ReLU()),
        perceptron(nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.5), bias=False),
        nn.Sequential(nn.Flatten(), *perceptron(nn.SiLU())),
    ],
    ids=["relu", "deep without biases", "flatten first"],
)
def test_stacked_points_are_the_points_of_the_plain_loop(model):
    objective = la.Objective(model, CE, [(X[:25], Y[:25]), (X[25:], Y[25:])])
    plain, fast = maps(objective)
    assert fast.engine == "stacked"
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)
    np.testing.assert_allclose(fast.stderr, plain.stderr, rtol=1e-5)


@pytest.mark.parametrize(
    ("criterion", "targets", "out"),
    [
        (nn.CrossEntropyLoss(), Y, 3),
        (nn.CrossEntropyLoss(label_smoothing=0.2), Y, 3),
        (lambda a, b, reduction="mean": F.cross_entropy(2 * a, b, reduction=reduction), Y, 3),
        (F.cross_entropy, torch.softmax(torch.randn(40, 3), 1), 3),
        (F.multi_margin_loss, Y, 3),
        (F.mse_loss, torch.randn(40, 3), 3),
        (F.binary_cross_entropy_with_logits, (Y[:, None] > 1).float(), 1),
    ],
    ids=["module", "smoothed", "own", "probabilities", "margin", "squares", "binary"],
)
@pytest.mark.parametrize("last", [[], [nn.Tanh()]], ids=["linear last", "activation last"])
def test_every_criterion_gets_its_outputs_as_it_wants_them(criterion, targets, out, last):
    model = nn.Sequential(*perceptron(nn.ReLU(), out=out), *last)
    objective = la.Objective(model, la.supervised(criterion), [(X, targets)])
    plain, fast = maps(objective)
    assert fast.engine == "stacked"
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-5)
    np.testing.assert_allclose(fast.stderr, plain.stderr, rtol=1e-4)


@pytest.mark.parametrize("params", [["0.weight"], ["2.weight", "2.bias"]])
def test_layers_that_stand_still_are_constant(params):
    objective = la.Objective(perceptron(nn.ReLU()), CE, [(X, Y)], params=params)
    plane = la.random_plane(objective, biases=True)
    plain, fast = (
        la.map_plane(objective, plane, points=3, engine=name) for name in ("plain", "auto")
    )
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)


def test_regression_with_further_axes_is_stacked_too():
    model = perceptron(nn.Tanh(), out=2)
    batch = (X.view(8, 5, 6), torch.randn(8, 5, 2))
    objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
    plain, fast = maps(objective)
    assert fast.engine == "stacked"
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)


def test_the_number_of_points_side_by_side_changes_nothing_but_rounding():
    objective = la.Objective(perceptron(nn.ReLU()), CE, [(X, Y)])
    task = Task(objective, la.random_plane(objective))
    with pytest.raises(UnknownNameError, match="`name` must be one of"):
        build(task, "stackd")
    engine = build(task, "stacked")
    points = np.random.default_rng(0).normal(size=(23, 2))
    whole = engine.evaluate(points)
    engine.block = 4
    np.testing.assert_allclose(engine.evaluate(points), whole, rtol=1e-6)


class Softmax(nn.Module):
    """Takes axis 1 for the classes: with an axis of points in front it is another one."""

    def forward(self, x):
        return x.softmax(1)


@pytest.mark.parametrize(
    ("between", "options"),
    [
        ((nn.ReLU(),), {"metrics": {"accuracy": la.accuracy}}),
        ((nn.BatchNorm1d(8),), {}),
        ((Softmax(),), {}),
    ],
    ids=["metrics", "norm", "an axis by number"],
)
def test_what_cannot_be_stacked_is_batched(between, options):
    objective = la.Objective(perceptron(*between), CE, [(X, Y)])
    plain, fast = maps(objective, **options)
    assert fast.engine == "batched"
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)
    plane = la.random_plane(objective)
    with pytest.raises(ArgumentError, match='engine="stacked" cannot serve this model'):
        la.map_plane(objective, plane, points=3, engine="stacked", **options)


def test_a_loss_of_ones_own_is_not_stacked():
    objective = la.Objective(
        perceptron(nn.ReLU()), lambda m, b: F.cross_entropy(m(b[0]), b[1]), [(X, Y)]
    )
    assert maps(objective)[1].engine == "batched"


class Keeps(nn.Module):
    """Makes something of its weights once, and reads that."""

    def __init__(self, filled):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.kept = self.layer.weight.detach() * 2 if filled else None

    def forward(self, x):
        if self.kept is None:
            self.kept = self.layer.weight * 2
        return x @ self.kept.T


@pytest.mark.parametrize("engine", ["auto", "plain", "streaming"])
def test_a_model_that_keeps_its_weights_is_told_so_or_served(engine):
    with pytest.raises(ModelError, match=r"'layer' keeps a tensor|keeps a tensor in 'kept'"):
        la.Objective(Keeps(filled=True), CE, [(X, Y)])
    unchecked = la.Objective(Keeps(filled=True), CE, [(X, Y)], check=False)
    plane = la.random_plane(unchecked)
    with pytest.raises(ModelError, match=r"outputs do not depend on 'layer\.weight'"):
        la.map_plane(unchecked, plane, points=3)
    with pytest.raises(ModelError, match="cached weights"):
        la.suggest_span(unchecked, plane)
    # What is made within a pass is made anew at every point.
    objective = la.Objective(Keeps(filled=False), CE, [(X, Y)])
    plane = la.random_plane(objective)
    land = la.map_plane(objective, plane, points=3, engine=engine, adaptive=False)
    assert land.engine == ("plain" if engine == "auto" else engine)
    assert np.isclose(land.values[0, 2], objective.value(plane.point([-1, 1])), rtol=1e-6)
    with pytest.raises(ArgumentError, match="a pass changes 'kept'"):
        la.map_plane(objective, plane, points=3, engine="batched")


def test_level_ground_is_a_note_and_no_error():
    model = perceptron(nn.ReLU())
    objective = la.Objective(model, lambda m, b: 0 * m(b[0]).sum() + 2, [(X, Y)])
    land = la.map_plane(objective, la.random_plane(objective), points=3)
    assert land.notes[0] == "The loss is bitwise equal at every point."
    steps = la.Objective(model, lambda m, b: (m(b[0])[:, 0] > 1e9).float(), [(X, Y)])
    assert la.map_plane(steps, la.random_plane(steps), points=3).range == 0


def test_choosing_gives_the_center_to_the_bit():
    objective = la.Objective(perceptron(nn.ReLU()), CE, [(X, Y)])
    chosen = select(Task(objective, la.random_plane(objective)), "auto", np.array([0.3, 0.2]))
    assert chosen.center[0] == objective.value()
    assert chosen.engine.name == "stacked"


def test_folded_pieces_have_the_error_of_their_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    batches = [(torch.randn(20, 1, 6, 6), torch.arange(20) % 3) for _ in range(3)]
    objective = la.Objective(
        model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, check=False
    )
    task = Task(objective, la.random_plane(objective))
    engine = build(task, "folded")
    engine._piece = 7
    points = np.array([[0.2, 0.1], [0.5, -0.3]])
    want = build(task, "plain").evaluate(points)
    np.testing.assert_allclose(engine.evaluate(points), want, rtol=1e-5)


class OfAll(nn.Module):
    """Divides by the largest entry there is: with points side by side, of another point."""

    def forward(self, x):
        return x / x.abs().amax().clamp(min=50.0)


@pytest.mark.parametrize("span", [1.0, 30.0, "auto"])
def test_what_only_points_far_away_disturb_is_not_stacked(span):
    # Near the origin the limit holds; the rim of the map is beyond it.
    objective = la.Objective(perceptron(OfAll(), nn.ReLU(), wide=20), CE, [(X, Y)])
    plain, fast = maps(objective, span=span)
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)
    if span == 30.0:
        assert fast.engine == "batched"


@pytest.mark.parametrize("adaptive", [True, False])
def test_points_that_are_compared_are_points_of_the_map(adaptive, monkeypatch):
    counts = {"plain": 0, "stacked": 0}
    evaluate = Engine.evaluate

    def counted(engine, coordinates):
        counts[engine.name] += len(coordinates)
        return evaluate(engine, coordinates)

    monkeypatch.setattr(Engine, "evaluate", counted)
    objective = la.Objective(perceptron(nn.Tanh()), CE, [(X, Y)])
    plane = la.random_plane(objective, seed=1)
    land = la.map_plane(objective, plane, points=21, adaptive=adaptive)
    # Two points are evaluated twice, by the plain loop and by the engine: the origin of the
    # map is the former's, the other point the latter's. That point is evaluated beside one
    # far away on either side.
    assert land.engine == "stacked"
    assert counts == {"plain": 0, "stacked": land.evaluations + 3}
    truth = la.map_plane(objective, plane, points=21, adaptive=False, engine="plain")
    np.testing.assert_allclose(
        land.values[land.computed], truth.values[land.computed], rtol=1e-6
    )
