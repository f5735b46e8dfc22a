"""Checks of muP: a correct network, the standard parametrization, and planted mistakes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import edge_of_stability
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError
from lossatlas.recipes import transfer_check

BASE, WORDS, LENGTH, HEADS = 32, 13, 6, 2
MISTAKES = {
    "readout": "head.weight",
    "embedding": "embed.weight",
    "attention": "block (attention)",
    "bias": "inner.bias",
    "init": "outer.weight",
}


class Block(nn.Module):
    def __init__(self, width, scale):
        super().__init__()
        self.scale = scale
        self.query, self.key, self.value = (nn.Linear(width, width, False) for _ in range(3))

    def forward(self, x):
        parts = (m(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in (
            self.query, self.key, self.value
        ))  # fmt: skip
        query, key, value = parts
        return (
            F.scaled_dot_product_attention(query, key, value, scale=self.scale)
            .transpose(1, 2)
            .flatten(2)
        )


class Net(nn.Module):
    def __init__(self, width, mistake):
        super().__init__()
        size = width // HEADS
        scale = size**-0.5 if mistake == "attention" else BASE / HEADS / size
        self.embed, self.block = nn.Embedding(WORDS, width), Block(width, scale)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, WORDS, bias=False)

    def forward(self, x):
        stream = self.embed(x)
        stream = stream + self.block(stream)
        stream = stream + self.outer(torch.tanh(self.inner(stream)))
        return self.head(stream)


def started(model, width, mistake, draw):
    ratio = width / BASE
    for name, value in model.named_parameters():
        fan = value.shape[-1]
        scale = 1.0 if name in {"embed.weight"} or value.ndim < 2 else fan**-0.5
        if name == "head.weight":
            scale /= ratio**0.5
        if mistake == "init" and name == "outer.weight":
            scale = (2 * BASE) ** -0.5
        value.data = scale * torch.randn(value.shape, generator=draw)
    if mistake == "readout":
        model.head.weight.data *= ratio**0.5


def rates(model, width, mistake, lr=3e-3):
    ratio = width / BASE
    for name, value in model.named_parameters():
        hidden = value.ndim > 1 and name != "embed.weight"
        slow = hidden and not (mistake == "readout" and name == "head.weight")
        slow |= mistake == "embedding" and name == "embed.weight"
        slow |= mistake == "bias" and name == "inner.bias"
        yield {"params": [value], "lr": lr / ratio if slow else lr}


def batch():
    draw = torch.Generator().manual_seed(7)
    return tuple(torch.randint(0, WORDS, (16, LENGTH), generator=draw) for _ in range(2))


def loss(model, given):
    return F.cross_entropy(model(given[0]).flatten(0, 1), given[1].flatten())


def factory(mistake):
    def make(width, seed):
        model = Net(width, mistake)
        started(model, width, mistake, torch.Generator().manual_seed(seed))
        optimizer = torch.optim.Adam(rates(model, width, mistake))
        return la.Objective(model, loss, [batch()], check=False), optimizer

    return make


def standard(width, seed):
    model = Net(width, "attention")
    started(model, width, "readout", torch.Generator().manual_seed(seed))
    return la.Objective(model, loss, [batch()], check=False), torch.optim.Adam(
        model.parameters(), lr=3e-3
    )


def test_mup_passes():
    found = transfer_check(factory(""))
    assert found.passed, found.sentences()
    kinds = {s.name: s.kind for s in found.scalings}
    assert kinds["embed.weight"] == "input"
    assert kinds["inner.weight"] == "hidden"
    assert kinds["head.weight"] == "readout"
    assert kinds["inner.bias"] == "vector"
    assert kinds["block (attention)"] == "attention"
    assert "keep what muP promises" in found.sentences()[0]
    assert found.sharpness.kind == "model"
    assert found.sharpness.slope.value == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_named_and_nothing_else(mistake):
    found = transfer_check(factory(mistake))
    assert found.broken == (MISTAKES[mistake],)
    assert found.sentences()[1].startswith(MISTAKES[mistake])


def test_the_standard_parametrization_breaks_in_every_hidden_layer():
    found = transfer_check(standard, steps=1)
    hidden = {"block.query.weight", "block.value.weight", "inner.weight", "outer.weight"}
    assert hidden | {"head.weight"} <= set(found.broken)
    assert "embed.weight" not in found.broken
    slopes = {s.name: s.slope.value for s in found.scalings if s.quantity == "update"}
    # With Adam a hidden update sums over width inputs that it is aligned with.
    assert slopes["head.weight"] == pytest.approx(1.0, abs=0.15)


def test_sharpness_grows_with_the_width_in_the_standard_parametrization():
    found = transfer_check(standard)
    assert found.sharpness.breaks
    assert found.sharpness.slope.value > 0.5
    assert "model" not in found.broken
    assert "The sharpness in units of the steps goes as" in " ".join(found.sentences())


def test_slopes_are_those_of_a_plain_fit():
    found = transfer_check(factory(""), widths=(32, 64, 128), seeds=1, steps=2)
    for each in found.scalings:
        x = torch.tensor(found.widths).log2()
        y = torch.tensor(each.sizes).log2()
        away = x - x.mean()
        assert each.slope.value == pytest.approx(float((away * y).sum() / away.square().sum()))


def test_intervals_of_slopes_cover_where_the_scatter_changes_with_the_width():
    from lossatlas.recipes.transfer import _judged

    widths, held = [32, 64, 128, 256], 0
    draw = torch.Generator().manual_seed(0)
    for _ in range(400):
        noise = torch.randn(4, 3, generator=draw) * 0.02 * torch.tensor([[8.0], [4], [2], [1]])
        table = {
            (w, seed): float(w**-0.5 * math.exp(noise[k, seed]))
            for k, w in enumerate(widths)
            for seed in range(3)
        }
        estimate, (low, high), _ = _judged(table, widths, 0.95)
        assert (low, high) == pytest.approx(estimate.interval())
        held += low <= -0.5 <= high
    assert 0.93 <= held / 400 <= 0.97


def test_sharpness_is_that_of_the_instrument_or_a_reason():
    widths = (32, 64, 128)
    found = transfer_check(factory(""), widths, steps=1, seeds=1)
    objective, optimizer = factory("")(64, 0)
    loss(objective.model, batch()).backward()
    optimizer.step()
    alone = edge_of_stability(objective, optimizer, tolerance=0.02, limit=60)
    assert found.sharpness.sizes[1] == pytest.approx(alone.sharpness, rel=0.05)
    without = transfer_check(factory(""), widths, steps=1, seeds=1, sharpness=False)
    assert without.sharpness is None

    def foreign(width, seed):
        objective, _ = factory("")(width, seed)
        return objective, torch.optim.RMSprop(objective.model.parameters(), lr=1e-3)

    told = transfer_check(foreign, widths, steps=1, seeds=1)
    assert told.sharpness is None
    assert "optimizer" in told.skipped["model sharpness"]


def test_bad_factories_and_widths_are_named():
    with pytest.raises(ArgumentError, match="`widths` must hold at least three"):
        transfer_check(factory(""), widths=(32, 64))
    with pytest.raises(ArgumentError, match="`factory` must return"):
        transfer_check(lambda width, seed: Net(width, ""))
    with pytest.raises(ModelError, match="no parameter grows"):
        transfer_check(lambda width, seed: factory("")(32, seed), steps=1, seeds=1)
    with pytest.raises(ArgumentError, match="`steps`"):
        transfer_check(factory(""), steps=0)

    def wild(width, seed):
        objective, _ = factory("")(width, seed)
        return objective, torch.optim.SGD(objective.model.parameters(), lr=math.inf)

    with pytest.raises(NonFiniteError, match="diverges"):
        transfer_check(wild, seeds=1)

    def lost(width, seed):
        objective, optimizer = factory("")(width, seed)
        objective.model.head.weight.data[0, 0] = math.nan
        return objective, optimizer

    with pytest.raises(NonFiniteError, match=r"'head\.weight' holds NaN"):
        transfer_check(lost, seeds=1)

    def foreign(width, seed):
        objective, _ = factory("")(width, seed)
        return objective, torch.optim.Adam(Net(width, "").parameters())

    with pytest.raises(ModelError, match="no parameter moves"):
        transfer_check(foreign, widths=(8, 16, 32), steps=1, seeds=1)


def test_what_could_not_be_judged_is_said():
    def silent(width, seed):
        objective, optimizer = factory("")(width, seed)
        objective.model.head.weight.data.zero_()
        return objective, optimizer

    found = transfer_check(silent, widths=(8, 16, 32), steps=1, seeds=1)
    assert "it is zero" in found.skipped.values()
    assert f"{len(found.skipped)} sizes could not be judged" in found.sentences()[-1]


def test_it_is_stored_and_drawn(tmp_path):
    before = torch.get_rng_state()
    found = transfer_check(factory("readout"), widths=(32, 64, 128), seeds=2, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert la.load(found.save(tmp_path / "t.nc")) == found
    for figure in found.figures():
        assert found.plot(figure.name) is not None
        assert found.plot(figure.name, backend="plotly").data
    assert all(math.isfinite(e.error) or e.why_no_error for e in found.estimates())
