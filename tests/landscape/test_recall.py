"""Modules that nothing on a plane reaches are run once a batch, and change no bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lossatlas as la
from lossatlas.landscape.engines import Task, build, recall, select
from lossatlas.landscape.engines.recall import Unmoved

CORNER = np.array([0.3, 0.4])
POINTS = np.array([[0.0, 0.0], [0.3, 0.4], [-0.2, 0.1], [0.3, -0.4], [0.1, 0.1]])


class Counted(nn.Module):
    """A block that counts its calls outside of what a pass may change."""

    def __init__(self, width, calls):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.calls = lambda: calls.append(1)

    def forward(self, x):
        self.calls()
        return x + torch.tanh(self.inner(x))


class Blocks(nn.Module):
    def __init__(self, width=6, number=4):
        super().__init__()
        calls = [[] for _ in range(number)]
        # Not a list among the attributes: it would come back as it was after every pass.
        self.counts = lambda: calls
        self.table = nn.Embedding(7, width)
        self.blocks = nn.ModuleList(Counted(width, each) for each in calls)
        self.head = nn.Linear(width, 7)

    def forward(self, tokens):
        x = self.table(tokens)
        # Written into what a module gave.
        x += 0.5
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def loss(model, batch):
    inputs, targets = batch
    each = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(inputs.shape).mean(1)


def tokens(batches=2, examples=8):
    return [tuple(torch.randint(7, (2, examples, 5))) for _ in range(batches)]


def engines(objective, plane=None):
    """The chosen engine, and one that remembers nothing."""
    plane = plane or la.random_plane(objective, seed=1)
    chosen = select(Task(objective, plane), "plain", CORNER).engine
    return chosen, build(replace(chosen.task, unmoved=Unmoved()), "plain")


def check_same(objective, *, found):
    fast, slow = engines(objective)
    assert fast.task.unmoved.names == found
    expected = slow.evaluate(POINTS)
    for _ in range(2):
        np.testing.assert_array_equal(fast.evaluate(POINTS), expected)
    return fast


LAST = ["blocks.2.*", "blocks.3.*"]
FIRST = ("table", "blocks.0", "blocks.1")


@pytest.mark.parametrize("kind", [list, "loader"])
def test_what_comes_before_the_first_layer_that_moves_is_run_once_a_batch(kind):
    model, data = Blocks(), tokens()
    if kind == "loader":
        flat = [tuple(torch.cat(parts)) for parts in zip(*data, strict=True)]
        data = DataLoader(list(zip(*flat, strict=True)), batch_size=8)
    objective = la.Objective(model, loss, data, params=LAST)
    fast = check_same(objective, found=FIRST)
    for calls in model.counts():
        calls.clear()
    fast.evaluate(POINTS)
    # Batches of a list are known already; others are met anew in every chunk.
    expected = 0 if kind is list else 2
    assert [len(calls) for calls in model.counts()] == [expected, expected, 10, 10]
    assert fast.memory > build(replace(fast.task, unmoved=Unmoved()), "plain").memory


def test_a_map_is_the_same_and_leaves_no_trace():
    model, data = Blocks(), tokens()
    objective = la.Objective(model, loss, data, params=LAST)
    plane = la.random_plane(objective, seed=1)
    metrics = {"largest": lambda m, b: m(b[0]).amax((1, 2))}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    land = la.map_plane(
        objective, plane, points=5, adaptive=False, metrics=metrics, engine="plain"
    )
    for (i, a), (j, b) in (
        (p, q) for p in enumerate(land.axes[0]) for q in enumerate(land.axes[1])
    ):
        assert land.values[i, j] == pytest.approx(
            objective.value(plane.point([a, b])), rel=1e-6
        )
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_given_directions_that_are_zero_move_nothing():
    objective = la.Objective(Blocks(), loss, tokens())
    lines = [
        {n: torch.randn_like(v) * n.startswith("head") for n, v in objective.params.items()}
        for _ in range(2)
    ]
    fast, slow = engines(objective, la.plane(objective.params, *lines))
    assert fast.task.unmoved.names == ("table", *(f"blocks.{k}" for k in range(4)))
    np.testing.assert_array_equal(fast.evaluate(POINTS), slow.evaluate(POINTS))


def test_a_teacher_in_the_loss_is_run_once_a_batch():
    calls = []
    teacher = nn.Sequential(Counted(6, calls), nn.Linear(6, 3)).eval()

    def distilled(model, batch):
        with torch.no_grad():
            goal = teacher(batch[0])
        return (model(batch[0]) - goal).square().mean(1)

    data = [(torch.randn(8, 6), torch.zeros(8))]
    objective = la.Objective(nn.Linear(6, 3), distilled, data)
    fast = check_same(objective, found=("loss 0",))
    calls.clear()
    fast.evaluate(POINTS)
    assert not calls


def test_a_teacher_that_keeps_something_is_run_at_every_point():
    class Keeps(nn.Linear):
        def forward(self, x):
            self.seen = super().forward(x)
            return self.seen

    teacher = Keeps(6, 3).eval().requires_grad_(False)

    def distilled(model, batch):
        teacher(batch[0])
        return (model(batch[0]) - teacher.seen).square().mean(1)

    data = [(torch.randn(8, 6), torch.zeros(8)) for _ in range(3)]
    check_same(la.Objective(nn.Linear(6, 3), distilled, data), found=())


@pytest.mark.parametrize("engine", ["plain", "folded"])
def test_convolutions_that_are_written_into_and_folded(engine):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3),
    ).eval()  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    data = [(torch.randn(16, 2, 6, 6), torch.randint(3, (16,))) for _ in range(2)]
    objective = la.Objective(
        model, la.supervised(F.cross_entropy), data, params=["6.weight", "9.weight"]
    )
    plane = la.random_plane(objective, seed=1)
    chosen = select(Task(objective, plane), engine, CORNER).engine
    assert chosen.name == engine
    assert chosen.task.unmoved.names
    slow = build(Task(objective, plane), "plain")
    for _ in range(2):
        np.testing.assert_allclose(
            chosen.evaluate(POINTS)[:, 0], slow.evaluate(POINTS)[:, 0], rtol=1e-6
        )


class Hidden(nn.Module):
    """Reads a weight that is not among its own."""

    def __init__(self, owner):
        super().__init__()
        self.owner = [owner]

    def forward(self, x):
        return x @ self.owner[0].weight


def test_a_module_that_reads_weights_of_others_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.add_module("2", Hidden(model[1]))

    def through(model, batch):
        return (model[2](batch[0]) + model[0](batch[0])).square().mean(1)

    objective = la.Objective(model, through, [(torch.randn(8, 4), torch.zeros(8))])
    check_same(objective, found=())


class Sneaky(Hidden):
    """Gives something of the weight only where two batches cannot tell."""

    def forward(self, x):
        return x @ self.owner[0].weight if bool(x[0, 0] > 5) else 1 * x


def test_plain_evaluation_judges_what_is_remembered():
    model = nn.Sequential(nn.Linear(4, 4))
    model.add_module("1", Sneaky(model[0]))

    def through(model, batch):
        return (model[1](batch[0]) + model[0](batch[0])).square().mean(1)

    data = [(torch.randn(8, 4).clamp(-1, 1), torch.zeros(8)) for _ in range(2)]
    data[1][0][0, 0] = 9.0
    objective = la.Objective(model, through, data)
    # The first batch says that it may be remembered, the second one that it may not.
    check_same(objective, found=())


def test_randomness_hooks_and_state_are_left_alone():
    class Noisy(nn.Module):
        def forward(self, x):
            torch.rand(1)
            return 2 * x

    class Counting(nn.Module):
        def forward(self, x):
            self.seen = x.mean()
            return 2 * x

    hooked = nn.Sequential(nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda *_: None)
    for module in (Noisy(), Counting(), hooked):
        model = nn.Sequential(module, nn.Linear(4, 1))
        objective = la.Objective(
            model, la.supervised(F.mse_loss), [(torch.randn(8, 4), torch.zeros(8, 1))],
            params=["1.*"],
        )  # fmt: skip
        fast, slow = engines(objective)
        assert "0" not in fast.task.unmoved.names
        np.testing.assert_array_equal(fast.evaluate(POINTS), slow.evaluate(POINTS))


def test_losses_that_take_derivatives_run_everything():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def slope(model, batch):
        x = batch[0].clone().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return found.square().sum(1)

    objective = la.Objective(model, slope, [(torch.randn(8, 2),)], params=["2.weight"])
    check_same(objective, found=())


def test_what_is_kept_stays_within_the_memory_that_is_free(monkeypatch):
    model, data = Blocks(), tokens(3)
    objective = la.Objective(model, loss, data, params=LAST)
    fast, slow = engines(objective)
    one = fast.task.unmoved.bytes
    monkeypatch.setattr(recall, "free_memory", lambda _: recall._SHARE * (one + one // 2))
    fast.recall(fast.task.unmoved)
    expected = slow.evaluate(POINTS)
    np.testing.assert_array_equal(fast.evaluate(POINTS), expected)
    for calls in model.counts():
        calls.clear()
    np.testing.assert_array_equal(fast.evaluate(POINTS), expected)
    # One batch of three is known.
    assert len(model.counts()[0]) == 2 * len(POINTS)
    assert fast._recall.memory <= one + one // 2


def test_zeros_of_the_other_sign_are_other_inputs():
    zero = torch.zeros(2)
    assert recall._same_value(zero, zero.clone())
    assert not recall._same_value(zero, -zero)
    nan = torch.tensor([float("nan")])
    assert recall._same_value(nan, nan.clone())
    assert not recall._same_value(zero, zero.double())


def test_language_models_with_a_cache():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=3, n_head=2, use_cache=True
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(11, (4, 6))
    objective = la.Objective(
        model, lambda m, b: m(**b).loss, [{"input_ids": ids, "labels": ids}],
        params=["transformer.h.2.*"],
    )  # fmt: skip
    fast = check_same(objective, found=select_names(objective))
    assert {"transformer.h.0", "transformer.h.1"} <= set(fast.task.unmoved.names)


def select_names(objective):
    return engines(objective)[0].task.unmoved.names


def span_by_all_ends(objective, plane, start=0.125, rise=4.0):
    """What `suggest_span` says, from every end at every span."""
    center = objective.evaluate(plane.origin)
    span = start
    while True:
        rises = []
        for direction in range(plane.dimension):
            ends = np.zeros((2, plane.dimension))
            ends[:, direction] = -span, span
            losses = [objective.value(plane.point(end)) for end in ends]
            rises.append(max(losses) - center.value)
        risen, error = min(rises), center.stderr
        enough = risen >= max(rise * abs(center.value), 10 * error)
        well = risen >= 20 * error and risen > 0.05 * abs(center.value)
        if enough or (span >= 1 and well) or span >= 8:
            return span, risen
        span *= 2


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_a_span_is_that_of_all_ends(dimension, scale):
    model = Blocks()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(scale)
    objective = la.Objective(model, loss, tokens(1))
    plane = la.random_plane(objective, dimension=dimension)
    found = la.suggest_span(objective, plane)
    span, risen = span_by_all_ends(objective, plane)
    assert found.span == span
    assert found.rise == pytest.approx(risen, rel=1e-4, abs=1e-6)


def test_a_map_that_looks_for_its_span_evaluates_nothing_twice():
    model, data = Blocks(), tokens(1)
    objective = la.Objective(model, loss, data)
    plane = la.random_plane(objective, seed=1)
    found = la.suggest_span(objective, plane)
    expected = la.map_plane(
        objective, plane, span=found.span, points=5, adaptive=False, engine="plain"
    )
    for calls in model.counts():
        calls.clear()
    land = la.map_plane(objective, plane, span="auto", points=5, adaptive=False, engine="plain")
    np.testing.assert_array_equal(land.values, expected.values)
    np.testing.assert_array_equal(land.axes[0], expected.axes[0])
    # The look (2), the check on a part of the batch (3), the search, and the other points:
    # of 25, the origin, four ends and at least two halfway are known.
    assert len(model.counts()[0]) <= 2 + 3 + found.evaluations - 1 + 25 - 1 - 4 - 2


def test_spans_that_are_none():
    objective = la.Objective(Blocks(), loss, tokens(1))
    plane = la.random_plane(objective, seed=1)
    with pytest.raises(la.errors.ArgumentError, match="auto"):
        la.map_plane(objective, plane, span="wide")
    with torch.no_grad():
        objective.model.head.bias[0] = float("nan")
    with pytest.raises(la.errors.NonFiniteError, match="center"):
        la.map_plane(objective, plane, span="auto")


@pytest.mark.parametrize("points", [2, 3, 4, 5, 8, 31])
@pytest.mark.parametrize("span", [1.0, [(0.0, 1.0), (-1.0, 0.0)]])
def test_every_point_of_a_map_is_that_of_the_plain_loop(points, span):
    objective = la.Objective(Blocks(), loss, tokens(1))
    plane = la.random_plane(objective, seed=1)
    if points > 8:
        points, span = 8, 2.0
    land = la.map_plane(objective, plane, span=span, points=points, adaptive=False)
    for (i, j), value in np.ndenumerate(land.values):
        point = plane.point([land.axes[0][i], land.axes[1][j]])
        assert value == pytest.approx(objective.value(point), rel=2e-6)
