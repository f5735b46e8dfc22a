import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas.errors import ArgumentError, StructureError, UnknownNameError
from lossatlas.landscape import directions
from lossatlas.landscape.directions import (
    RandomDirection,
    filter_normalized,
    layer_normalized,
)


@st.composite
def direction_and_weights(draw):
    # Small integers: zero filters are common and failing examples stay readable.
    shape = torch.Size(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    entries = st.lists(st.integers(-9, 9), min_size=shape.numel(), max_size=shape.numel())
    d, w = (torch.tensor(draw(entries), dtype=torch.float64).reshape(shape) for _ in "dw")
    return {"w": d}, {"w": w}


@given(direction_and_weights())
def test_every_live_filter_takes_the_norm_of_its_weights(pair):
    direction, weights = pair
    got = filter_normalized(direction, weights)["w"].flatten(1).norm(dim=1)
    alive = direction["w"].flatten(1).any(dim=1)
    rows = weights["w"].flatten(1)
    live = rows[rows.any(dim=1)]
    spare = live.norm() / max(1, live.numel()) ** 0.5 * rows.shape[1] ** 0.5
    expected = torch.where(rows.any(dim=1), rows.norm(dim=1), spare)
    assert_close(got, expected * alive)


@given(direction_and_weights(), st.floats(1e-3, 1e3))
def test_length_of_the_direction_is_irrelevant(pair, scale):
    direction, weights = pair
    longer = {"w": scale * direction["w"]}
    for normalized in (filter_normalized, layer_normalized):
        assert_close(normalized(longer, weights), normalized(direction, weights))


@given(direction_and_weights())
def test_a_layer_takes_the_norm_of_its_weights(pair):
    direction, weights = pair
    got = layer_normalized(direction, weights)["w"].norm()
    assert_close(got, weights["w"].norm() * direction["w"].any())


def test_missing_name_is_reported():
    with pytest.raises(StructureError, match="`weights` has no entry 'b'"):
        filter_normalized({"b": torch.ones(2, 2)}, {})


def model():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def weights_of(network):
    return {name: value.detach() for name, value in network.named_parameters()}


@pytest.mark.parametrize("normalization", directions.NORMALIZATIONS)
@pytest.mark.parametrize("biases", [False, True])
def test_a_drawn_direction_is_the_same_whole_or_in_blocks(normalization, biases, monkeypatch):
    weights = weights_of(model())
    drawn = RandomDirection(weights, 4, 0, normalization, biases=biases)
    whole = dict(drawn.items())
    assert list(whole) == list(weights)
    for name, value in whole.items():
        pieces = torch.zeros_like(value)
        rows = pieces if pieces.ndim > 1 else pieces.view(1, -1)
        for where, block in drawn.blocks(name):
            rows[where] = block
        assert torch.equal(pieces, value)
    monkeypatch.setattr(directions, "_BLOCK", 20)
    assert len(list(drawn.blocks("3.weight"))) > 1
    scaled = drawn["3.weight"].norm()
    if normalization == "layer":
        assert_close(scaled, weights["3.weight"].norm())


def test_li_et_al_leave_biases_and_norm_scales_alone():
    weights = weights_of(model())
    still = RandomDirection(weights, 0, 0, "filter", biases=False)
    moving = RandomDirection(weights, 0, 0, "filter", biases=True)
    for name, value in weights.items():
        assert bool(still[name].any()) == (value.ndim > 1)
        assert moving[name].any()
        if value.any():
            assert_close(moving[name].norm(), value.norm())


def test_axes_and_seeds_are_independent_and_single_layers_need_no_others():
    weights = weights_of(model())
    make = lambda seed, axis, w=weights: RandomDirection(w, seed, axis, "none", biases=True)  # noqa: E731
    base = make(0, 0)["3.weight"]
    assert torch.equal(base, make(0, 0, {"3.weight": weights["3.weight"]})["3.weight"])
    for other in (make(1, 0), make(0, 1)):
        cosine = F.cosine_similarity(base.flatten(), other["3.weight"].flatten(), dim=0)
        assert abs(float(cosine)) < 0.5


def objective(network, inputs):
    batches = [(inputs, torch.zeros(len(inputs), 1))]
    return la.Objective(network, la.supervised(F.mse_loss), batches)


def test_nothing_to_move_is_an_error_with_the_remedy():
    network = nn.Linear(2, 1)
    nn.init.zeros_(network.weight)
    ground = objective(network, torch.ones(3, 2))
    with pytest.raises(ArgumentError, match=r"random direction is zero.*biases=True"):
        la.random_plane(ground)
    assert la.random_plane(ground, normalization="none").dimension == 2
    with pytest.raises(UnknownNameError, match="did you mean 'filter'"):
        la.random_plane(ground, normalization="filters")
    for dimension in (0, 4, 1.5):
        with pytest.raises(ArgumentError, match="`dimension`"):
            la.random_plane(ground, dimension=dimension)


class Adapter(nn.Module):
    """y = W x + B A x with B = 0, as LoRA starts; then a head of zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.ModuleDict(
            {"a": nn.Linear(6, 2, bias=False), "b": nn.Linear(2, 6, bias=False)}
        )
        self.head = nn.Linear(6, 3)
        nn.init.zeros_(self.block["b"].weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        return self.head(x + self.block["b"](self.block["a"](x)))


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_zero_filters_move_by_the_scale_of_their_module_and_are_named(normalization):
    model = Adapter()
    batch = (torch.randn(16, 6), torch.randint(3, (16,)))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    plane = la.random_plane(objective, normalization=normalization)
    weights, direction = weights_of(model), plane.directions[0]
    typical = weights["block.a.weight"].norm() / 12**0.5
    # The nearest module: its sibling for B, the whole model for the head.
    for name in ("block.b.weight", "head.weight"):
        rows = (
            direction[name].norm(dim=1) if normalization == "filter" else direction[name].norm()
        )
        entries = (
            direction[name].shape[1] if normalization == "filter" else direction[name].numel()
        )
        assert_close(rows, (typical * entries**0.5).expand_as(rows))
    land = la.map_plane(objective, plane, points=3)
    assert land.range > 0
    assert any("block.b.weight, head.weight" in note for note in land.notes)


def test_a_pruned_filter_moves_as_the_others_of_its_tensor():
    weights = {"w": torch.ones(3, 4), "v": torch.full((2, 2), 100.0)}
    weights["w"][1] = 0
    moved = filter_normalized({k: torch.randn_like(v) for k, v in weights.items()}, weights)
    assert_close(moved["w"].norm(dim=1), torch.full((3,), 2.0))


def test_tensors_that_stand_still_are_named():
    objective = la.Objective(
        model(), lambda m, b: m(b).square().mean(), [torch.randn(4, 2, 4, 4)]
    )
    origin = objective.params
    u = {k: torch.ones_like(v) if k == "0.weight" else 0 * v for k, v in origin.items()}
    (note,) = la.plane(origin, u).notes()
    assert "3.weight" in note
    assert "0.weight" not in note
    assert la.random_plane(objective).notes() == ()


class Sentences(nn.Module):
    """An embedding with a padding row, read by its own layer or by a tied head too."""

    def __init__(self, tied):
        super().__init__()
        self.table = nn.Embedding(7, 4, padding_idx=2)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(1))


@pytest.mark.parametrize("normalization", directions.NORMALIZATIONS)
def test_the_row_at_padding_idx_stands_still_and_is_named(normalization, monkeypatch):
    torch.manual_seed(0)
    network = Sentences(tied=False)
    network.table.weight.data[2] = 1.0
    tokens = torch.arange(21).reshape(7, 3) % 7
    objective = la.Objective(
        network, la.supervised(F.cross_entropy), [(tokens, torch.arange(7))]
    )
    monkeypatch.setattr(directions, "_BLOCK", 8)
    plane = la.random_plane(objective, normalization=normalization)
    for direction in plane.directions:
        moves = direction["table.weight"].any(dim=1)
        assert moves.tolist() == [row != 2 for row in range(7)]
    land = la.map_plane(objective, plane, points=3)
    assert any("row 2 of table.weight" in note for note in land.notes)
    # What descent reaches from here agrees: this row has no gradient.
    assert not objective.gradient()["table.weight"][2].any()


def test_a_padding_row_of_zeros_is_no_filter_that_is_lent_a_scale():
    tokens = torch.arange(21).reshape(7, 3) % 7
    objective = la.Objective(
        Sentences(tied=False), la.supervised(F.cross_entropy), [(tokens, torch.arange(7))]
    )
    (note,) = la.random_plane(objective).notes()
    assert "padding_idx" in note


def test_the_padding_row_of_a_tied_head_moves_as_in_training():
    tokens = torch.arange(21).reshape(7, 3) % 7
    objective = la.Objective(
        Sentences(tied=True), la.supervised(F.cross_entropy), [(tokens, torch.arange(7))]
    )
    assert objective.gradient()["table.weight"][2].any()
    assert la.random_plane(objective).directions[0]["table.weight"][2].any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": float("inf")},
        {"seed": True},
        {"seed": "0"},
        {"biases": "no"},
        {"dimension": 2.0},
    ],
)
def test_hostile_arguments_of_a_random_plane_are_refused(arguments):
    objective = la.Objective(
        model(), lambda m, b: m(b).square().mean(), [torch.randn(4, 2, 4, 4)]
    )
    with pytest.raises(ArgumentError):
        la.random_plane(objective, **arguments)


@pytest.mark.parametrize("labels", ["ab", ["one"], ["a", "b", "c"]])
def test_labels_name_every_direction(labels):
    origin = {"w": torch.zeros(2, 2)}
    u, v = {"w": torch.eye(2)}, {"w": torch.ones(2, 2)}
    with pytest.raises(ArgumentError, match="must name each of 2 directions"):
        la.plane(origin, u, v, labels=labels)
