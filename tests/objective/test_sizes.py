"""Batch means are weighted by what batches hold: said, known, or told to be unknown."""

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import lossatlas as la
import lossatlas.curvature
from lossatlas.errors import ArgumentError, DataError, LossError
from lossatlas.objective.batches import batch_size, cut, known_size, map_tensors, tensors


def _model(width=3):
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(width, 1).double()
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return model


def _draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _mean_of(model, parts, sizes):
    losses = [model(part).square().mean().item() for part in parts]
    return sum(n * x for n, x in zip(sizes, losses, strict=True)) / sum(sizes)


def test_size_says_what_a_batch_mean_weighs():
    model, x = _model(), _draw(7, 10, 3)
    parts = [x[:, :6], x[:, 6:]]
    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    with pytest.raises(DataError, match=r"cannot be told.*\(7, 6, 3\).*\(7, 4, 3\).*size="):
        la.Objective(model, loss, parts)
    objective = la.Objective(model, loss, parts, size=lambda batch: batch.shape[1])
    whole = la.Objective(model, loss, [x])
    assert objective.value() == pytest.approx(whole.value())
    assert_close(objective.gradient(), whole.gradient())
    direction = {n: torch.ones_like(v) for n, v in whole.params.items()}
    a, b = (la.curvature.hessian(o) @ direction for o in (objective, whole))
    assert_close(a, b)
    land = la.map_plane(objective, la.random_plane(objective), points=3)
    assert land.values[1, 1] == pytest.approx(whole.value())


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3, "`size` must be a function"),
        (lambda b: 0, "a number above 0; got 0"),
        (lambda b: "many", "got many"),
        (lambda b: b.missing, "`size`"),
        (lambda b: float("nan"), "got nan"),
    ],
)
def test_a_size_that_is_none_is_refused(size, message):
    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    with pytest.raises(ArgumentError, match=message):
        la.Objective(_model(), loss, [_draw(4, 3), _draw(2, 3)], size=size)


def test_embedding_bags_with_unequal_inputs_must_say_their_size():
    bag = nn.EmbeddingBag(9, 1).double()
    loss = lambda m, b: m(b[0], b[1]).square().mean()  # noqa: E731
    batches = [
        (torch.arange(8), torch.tensor([0, 3, 5])),
        (torch.arange(4), torch.tensor([0, 1, 2])),
    ]
    with pytest.raises(DataError, match="size="):
        la.Objective(bag, loss, batches)
    objective = la.Objective(bag, loss, batches, size=lambda batch: len(batch[1]))
    values = [loss(bag, batch).item() for batch in batches]
    assert objective.value() == pytest.approx(sum(values) / 2)
    # One number an example needs no size at all.
    each = lambda m, b: m(b[0], b[1]).square()[:, 0]  # noqa: E731
    assert la.Objective(bag, each, batches).value() == pytest.approx(sum(values) / 2)


def test_padding_that_differs_between_batches_must_be_said():
    model = _model()
    loss = lambda m, b: m(b["x"]).square().mean()  # noqa: E731
    batches = [{"x": _draw(4, 5, 3)}, {"x": _draw(4, 2, 3)}]
    with pytest.raises(DataError, match="size="):
        la.Objective(model, loss, batches)
    tokens = la.Objective(model, loss, batches, size=lambda b: b["x"][..., 0].numel())
    expected = torch.cat([model(b["x"]).square().flatten() for b in batches]).mean()
    assert tokens.value() == pytest.approx(expected.item())


def test_equal_layouts_and_one_common_axis_are_safe():
    model, x = _model(), _draw(10, 3)
    loss = lambda m, b: m(b[0]).square().mean()  # noqa: E731
    equal = la.Objective(model, loss, [(x[:5], _draw(2, 2)), (x[5:], _draw(2, 2))])
    assert equal.value() == pytest.approx(_mean_of(model, [x[:5], x[5:]], [1, 1]))
    last = la.Objective(model, loss, [(x[:7], x[:7]), (x[7:], x[7:])])
    assert last.value() == pytest.approx(_mean_of(model, [x[:7], x[7:]], [7, 3]))


@dataclass
class Record:
    inner: dict
    label: str = "a"


class _Graphs:
    """What PyTorch Geometric's Batch shows of itself."""

    def __init__(self, x, num_graphs):
        self.x, self.num_graphs = x, num_graphs

    def to_dict(self):
        return {"x": self.x}

    def apply(self, change):
        self.x = change(self.x)
        return self


_Graphs.__module__ = "torch_geometric.data.batch"


class _TensorDict(UserDict):
    """What a TensorDict shows of itself."""

    def __init__(self, data, batch_size):
        super().__init__(data)
        self.batch_size = torch.Size(batch_size)

    def apply(self, change):
        return _TensorDict({k: change(v) for k, v in self.items()}, self.batch_size)


PACKED = pack_sequence([_draw(3, 2), _draw(2, 2), _draw(1, 2)])
NESTED = torch.nested.nested_tensor([_draw(3, 2), _draw(5, 2)], layout=torch.jagged)
STRUCTURES = [
    (PACKED, 3),
    ((PACKED, torch.zeros(3)), 3),
    ((torch.arange(7), PACKED), 3),
    (NESTED, 2),
    ([torch.zeros(9), NESTED], 2),
    ({"a": {"b": torch.zeros(4, 2)}}, 4),
    (Record({"x": torch.zeros(6)}), 6),
    (UserDict(input_ids=torch.zeros(2, 8)), 2),
    (_Graphs(torch.zeros(11, 3), 4), 4),
    ((_Graphs(torch.zeros(11, 3), 4),), 4),
    (_TensorDict({"x": torch.zeros(5, 2)}, [5]), 5),
    (_TensorDict({"x": torch.zeros(5, 2)}, []), 5),
]


@pytest.mark.parametrize(("batch", "size"), STRUCTURES)
def test_containers_tell_how_many_examples_they_hold(batch, size):
    assert batch_size(batch) == size


@pytest.mark.parametrize(("batch", "size"), STRUCTURES)
def test_containers_are_changed_without_being_touched(batch, size):
    before = [value.clone() for value in tensors(batch)]
    changed = map_tensors(lambda value: value * 2, batch)
    assert type(changed) is type(batch)
    for old, new, kept in zip(before, tensors(changed), tensors(batch), strict=True):
        if old.is_floating_point():
            left, right = (value.values() if old.is_nested else value for value in (new, kept))
            assert_close(left, 2 * (old.values() if old.is_nested else old))
            assert_close(right, old.values() if old.is_nested else old)


@pytest.mark.parametrize(
    "batch", [PACKED, (PACKED, torch.zeros(3)), _Graphs(torch.zeros(9), 4)]
)
def test_what_is_no_structure_of_rows_is_not_cut(batch):
    with pytest.raises(DataError, match="cannot be cut"):
        cut(batch, 0, 1)


def test_packed_sequences_are_weighted_by_their_sequences():
    rnn = nn.GRU(2, 1, batch_first=True).double()
    loss = lambda m, b: m(b)[1].square().mean()  # noqa: E731
    batches = [PACKED, pack_sequence([_draw(5, 2)])]
    assert known_size(batches[1]) == 1
    objective = la.Objective(rnn, loss, batches)
    values = [loss(rnn, batch).item() for batch in batches]
    assert objective.value() == pytest.approx((3 * values[0] + values[1]) / 4)


def test_a_batch_without_tensors_must_say_its_size():
    model = _model()
    loss = lambda m, b: (m.weight.sum() * len(b)).square()  # noqa: E731
    with pytest.raises(DataError, match=r"no tensor.*size="):
        la.Objective(model, loss, [["a", "b"], ["c"]])
    objective = la.Objective(model, loss, [["a", "b"], ["c"]], size=len)
    assert objective.value() == pytest.approx(model.weight.sum().item() ** 2 * (4 * 2 + 1) / 3)


def _tokens():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (9, 5), generator=generator)
    y[torch.rand(9, 5, generator=generator) < 0.4] = -1
    model = nn.Linear(3, 2).double()
    return model, [(x[:6], y[:6]), (x[6:], y[6:])]


def _hidden(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-1)


class _Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.ignore_index = -1

    def forward(self, outputs, targets):
        return _hidden(outputs, targets)


def test_a_mean_of_means_is_told_and_shown_with_the_map():
    model, batches = _tokens()
    objective = la.Objective(model, la.supervised(_hidden), batches)
    (note,) = objective.notes
    assert "not the mean over its examples" in note
    assert "la.Weighted" in note
    land = la.map_plane(objective, la.random_plane(objective), points=3)
    assert note in land.notes
    assert la.Objective(model, la.supervised(_hidden), batches[:1]).notes == ()
    counted = lambda batch: (batch[1] >= 0).sum()  # noqa: E731
    told = la.Objective(model, la.supervised(_hidden), batches, size=counted)
    assert told.notes == ()
    whole = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    assert told.value() == pytest.approx(_hidden(model(whole[0]), whole[1]).item())


def test_a_criterion_whose_weights_cannot_be_taken_apart_is_refused():
    model, batches = _tokens()
    with pytest.raises(LossError, match=r"`ignore_index`.*la\.Weighted"):
        la.Objective(model, la.supervised(_Unknown()), batches)
    assert la.Objective(model, la.supervised(_Unknown()), batches[:1]).unit == "batches"


def test_rows_of_tokens_are_not_taken_for_examples():
    model, batches = _tokens()

    def rows(outputs, targets, reduction="mean"):
        flat = outputs.flatten(0, 1), targets.flatten()
        return F.cross_entropy(*flat, ignore_index=-1, reduction=reduction)

    assert la.Objective(model, la.supervised(rows), batches).unit == "batches"


def test_a_size_says_that_axis_0_is_not_the_examples():
    model, x = _model(), _draw(7, 10, 3)
    y = _draw(7, 10, 1)
    batches = [(x[:, :6], y[:, :6]), (x[:, 6:], y[:, 6:])]
    loss = la.supervised(F.mse_loss)
    by_time = la.Objective(model, loss, batches, size=lambda batch: batch[0].shape[1])
    assert by_time.unit == "batches"
    assert by_time.value() == pytest.approx(F.mse_loss(model(x), y).item())
    counted = la.Objective(model, loss, batches, size=lambda batch: batch[0].shape[0])
    assert counted.unit == "examples"


def test_plain_means_raise_no_false_alarm():
    for dtype in (torch.float32, torch.float64):
        model = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 1)).to(dtype)
        x = _draw(600, 3).to(dtype)
        loss = lambda m, b: m(b).square().mean() + 1e-3 * m[0].weight.square().sum()  # noqa: E731
        assert la.Objective(model, loss, [x[:512], x[512:]]).notes == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_examples(dtype):
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 3)
    x = torch.randn(300, 4, generator=generator)
    y = torch.randint(0, 3, (300,), generator=generator)
    full = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    half = la.Objective(
        nn.Linear(4, 3).to(dtype), la.supervised(F.cross_entropy), [(x.to(dtype), y)]
    )
    half.model.load_state_dict(model.state_dict())
    for found in (half, la.Objective(half.model, half.loss, half.batches)):
        assert found.unit == "examples"
        assert found.evaluate().stderr == pytest.approx(full.evaluate().stderr, rel=0.02)
        assert found.value() == pytest.approx(full.value(), rel=0.02)
    for name, value in half.gradient().items():
        assert value.dtype is dtype
        assert_close(value.float(), full.gradient()[name], rtol=0.05, atol=5e-3)


def test_sums_of_half_precision_do_not_overflow():
    model = nn.Linear(1, 1, bias=False).half()
    nn.init.constant_(model.weight, 1.0)
    x = torch.full((4000, 1), 16.0).half()
    objective = la.Objective(model, lambda m, b: m(b).square()[:, 0], [x, x])
    assert objective.value() == pytest.approx(256.0)
    assert_close(objective.gradient()["weight"], torch.tensor([[512.0]]).half())


def test_time_in_front_is_not_cut_as_if_it_were_examples():
    recurrent = nn.LSTM(3, 2)
    series = [(torch.randn(5, n, 3), torch.randn(n, 2)) for n in (4, 2)]

    def last_step(model, batch):
        return nn.functional.mse_loss(model(batch[0])[0][-1], batch[1])

    objective = la.Objective(recurrent, last_step, series, size=lambda batch: len(batch[1]))
    assert objective.notes == ()
