"""Small transformers: many points in one pass, where calls cost more than what they compute."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.landscape.engines import Task, build, select

CORNER = np.array([0.3, 0.4])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """Its head is its table of tokens."""

    def __init__(self, words=11, width=8, blocks=2):
        super().__init__()
        self.table, self.places = nn.Embedding(words, width), nn.Embedding(256, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens) + self.places.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def losses(model, batch):
    inputs, targets = batch
    each = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(inputs.shape).mean(1)


def transformer(examples=4, tokens=6, batches=2):
    torch.manual_seed(0)
    model = Transformer().eval()
    data = [tuple(torch.randint(11, (2, examples, tokens))) for _ in range(batches)]
    return la.Objective(model, losses, data)


def test_points_of_a_small_transformer_go_side_by_side_and_equal_the_plain_loop():
    objective = transformer()
    plane = la.random_plane(objective)
    plain, fast = (
        la.map_plane(objective, plane, points=5, adaptive=False, engine=engine)
        for engine in ("plain", "auto")
    )
    assert (plain.engine, fast.engine) == ("plain", "batched")
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)
    np.testing.assert_allclose(fast.stderr, plain.stderr, rtol=1e-4)


@pytest.mark.parametrize(("tokens", "engine"), [(16, "batched"), (256, "plain")])
def test_where_a_layer_gives_out_much_points_go_one_after_another(caplog, tokens, engine):
    objective = transformer(examples=8, tokens=tokens, batches=1)
    with caplog.at_level(logging.INFO):
        found = select(Task(objective, la.random_plane(objective)), "auto", CORNER).engine
    assert found.name == engine
    assert ("a layer outputs" in caplog.text) == (engine == "plain")


def test_an_engine_that_is_asked_for_by_name_serves_large_layers_as_well():
    objective = transformer(examples=8, tokens=256, batches=1)
    task = Task(objective, la.random_plane(objective))
    points = np.stack([CORNER, -CORNER])
    fast, plain = (build(task, name).evaluate(points) for name in ("batched", "plain"))
    assert select(task, "batched", CORNER).engine.name == "batched"
    np.testing.assert_allclose(fast[:, 0], plain[:, 0], rtol=1e-6)


def test_a_map_that_was_stopped_has_the_bits_of_one_that_was_not(tmp_path):
    objective = transformer(batches=1)
    plane = la.random_plane(objective)
    given = {"points": 17, "adaptive": False}
    whole = la.map_plane(objective, plane, **given)
    assert whole.engine == "batched"

    def stop(done, total, label):
        if done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        la.map_plane(objective, plane, **given, resume=tmp_path / "map", progress=stop)
    resumed = la.map_plane(objective, plane, **given, resume=tmp_path / "map")
    np.testing.assert_array_equal(resumed.values, whole.values)
    np.testing.assert_array_equal(resumed.stderr, whole.stderr)
