"""Streaming against the plain loop: the same bits, few draws, whatever memory is free."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.landscape.directions import RandomDirection
from lossatlas.landscape.engines import Task, build, streaming
from lossatlas.landscape.engines.lanes import in_step

POINTS = np.array([[0.1 * a, 0.2 * b] for a in (-1, 0, 1) for b in (-1, 0, 1)])
# Free memory in copies of the weights: block by block, in step, all kept.
FREE = {"blocks": 0.01, "in step": 5.0, "all kept": 100.0}


class Tied(nn.Module):
    """A language model of one block, with the table of tokens as its head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        h = self.table(x)
        return self.head(h + self.down(F.gelu(self.up(self.norm(h)))))


def loss(model, batch):
    inputs, targets = batch
    each = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(inputs.shape).mean(1)


def tokens(batches):
    source = torch.Generator().manual_seed(0)
    draw = lambda: torch.randint(16, (3, 2), generator=source)  # noqa: E731
    return [(draw(), draw()) for _ in range(batches)]


def task_of(model, batches, measure=loss):
    objective = la.Objective(model.eval(), measure, batches, check=False)
    return Task(objective, la.random_plane(objective, seed=1))


def free(monkeypatch, copies, model):
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    monkeypatch.setattr(streaming, "free_memory", lambda _: int(copies * size))


@pytest.mark.parametrize("memory", FREE)
@pytest.mark.parametrize("batches", [1, 4])
def test_streaming_gives_the_bits_of_the_plain_loop(memory, batches, monkeypatch):
    model = Tied()
    free(monkeypatch, FREE[memory], model)
    task = task_of(model, tokens(batches))
    engine, plain = build(task, "streaming"), build(task, "plain")
    center = engine.look()
    assert (engine._lanes > 1) == (memory == "in step")
    np.testing.assert_array_equal(engine.evaluate(POINTS), plain.evaluate(POINTS))
    np.testing.assert_array_equal(center, plain.evaluate(np.zeros((1, 2))))


def drawn(monkeypatch):
    counts = []
    normal = RandomDirection._normal

    def counted(self, *args):
        block = normal(self, *args)
        counts.append(block.numel())
        return block

    monkeypatch.setattr(RandomDirection, "_normal", counted)
    return counts


@pytest.mark.parametrize("memory", ["in step", "all kept"])
@pytest.mark.parametrize("batches", [1, 4])
def test_a_point_draws_no_more_numbers_than_there_are_weights(memory, batches, monkeypatch):
    model = Tied()
    free(monkeypatch, FREE[memory], model)
    task = task_of(model, tokens(batches))
    engine, counts = build(task, "streaming"), drawn(monkeypatch)
    engine.look()
    if memory == "in step":
        # Activations of a model as small as this take more than its weights.
        engine._lanes = 16
    engine.evaluate(POINTS[:8])
    weights = sum(value.numel() for value in model.parameters())
    assert sum(counts) <= 1.1 * weights * 8


class Keeps(nn.Module):
    """Holds an activation while it runs, and lets it go at the end."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        self.kept = self.a(x)
        y = self.b(x) + self.kept
        del self.kept
        return y


class Counts(nn.Module):
    """Writes into a buffer between two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        h = self.a(x)
        self.mean.copy_(h.mean(0))
        return self.b(h) - self.mean


class Chooses(nn.Module):
    """Takes its way by what it is given, so that passes part and meet again."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        h = self.a(x)
        h = self.b(h) if x[0, 0] > 0 else self.c(self.b(h))
        return self.d(h)


def examples():
    source = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, 6, generator=source) for _ in range(3)]
    for each, sign in zip(inputs, (1, -1, 1), strict=True):
        each[0, 0] = sign
    return [(each, torch.zeros(5, 6)) for each in inputs]


@pytest.mark.parametrize(("kind", "in_turn"), [(Keeps, 0), (Counts, 0), (Chooses, 1)])
def test_passes_walk_in_step_only_where_they_do_not_disturb_each_other(
    kind, in_turn, monkeypatch
):
    model = kind()
    free(monkeypatch, 5.0, model)
    monkeypatch.setattr(streaming, "_MOST_LANES", 9)
    task = task_of(model, examples(), la.supervised(F.mse_loss))
    engine, plain = build(task, "streaming"), build(task, "plain")
    engine.look()
    engine._lanes = 9 if in_turn else engine._lanes
    assert engine._lanes == (9 if in_turn else 1)
    np.testing.assert_array_equal(engine.evaluate(POINTS), plain.evaluate(POINTS))


HELD = {}


def keeps_elsewhere(model, batch):
    """Keeps something between two layers where nobody looks."""
    HELD["h"] = model[0](batch[0])
    y = model[1](batch[0]) + HELD["h"]
    return ((y - batch[1]) ** 2).mean(1)


def test_passes_that_disturb_each_other_unseen_are_found_by_their_values(monkeypatch):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    objective = la.Objective(model, keeps_elsewhere, examples(), check=False)
    free(monkeypatch, 5.0, model)
    ended = []
    alone = streaming.StreamingEngine.go_alone
    go_alone = lambda self: ended.append(alone(self)) or ended[-1]  # noqa: E731
    monkeypatch.setattr(streaming.StreamingEngine, "go_alone", go_alone)
    plane = la.random_plane(objective)
    streamed, plain = (
        la.map_plane(objective, plane, points=3, engine=engine)
        for engine in ("streaming", "plain")
    )
    assert ended == [True]
    np.testing.assert_array_equal(streamed.values, plain.values)


def test_an_error_in_one_pass_ends_all_and_is_named(monkeypatch):
    model = Tied()
    free(monkeypatch, 5.0, model)
    batches = tokens(3)
    task = task_of(model, batches)
    engine = build(task, "streaming")
    engine.look()
    engine._lanes = 6
    batches[1][1].fill_(99)
    before = set(threading.enumerate())
    with pytest.raises(la.AtlasError, match="`loss` failed"):
        engine.evaluate(POINTS)
    assert set(threading.enumerate()) <= before


def test_passes_are_served_together_and_in_order():
    served = []

    def serve(name, numbers):
        served.append((name, list(numbers)))
        return (10 * number + len(served) for number in numbers)

    def walk(names, ask):
        return [ask(name) for name in names]

    calls = [lambda ask, n=names: walk(n, ask) for names in ("ab", "acb", "ab")]
    assert in_step(calls, serve) == [[1, 2], [11, 13, 14], [21, 22]]
    assert served == [("a", [0, 1, 2]), ("b", [0, 2]), ("c", [1]), ("b", [1])]


def test_a_pass_that_is_stopped_ends_even_if_it_goes_on_asking():
    def stubborn(ask):
        for _ in range(3):
            with contextlib.suppress(BaseException):
                ask("a")

    def fails(ask):
        ask("a")
        raise ValueError("here")

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="here"):
        in_step([stubborn, fails], lambda name, numbers: iter([1] * len(numbers)))
    assert set(threading.enumerate()) <= before
