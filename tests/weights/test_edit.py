"""Editing by curvature: closed forms, undo, both sets, casts."""

import numpy as np
import pytest
import torch
from networks import objective
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError, StructureError, UnknownNameError
from lossatlas.weights import edit_curve, factors


def task_of(model, examples=60, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 5, generator=draw, dtype=torch.float64) * torch.tensor(
        [3.0, 1.0, 0.5, 0.1, 0.01]
    )
    y = torch.randint(0, 4, (examples,), generator=draw)
    return la.Objective(model.to(dtype), la.supervised(F.cross_entropy), [(x.to(dtype), y)])


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))


def by_hand(layer, weight, keep, score="mass"):
    """The edit, pair by pair, with A without the bias."""
    width = weight.shape[1]
    mu, right = torch.linalg.eigh(layer.inputs.matrix[:width, :width])
    lam, left = torch.linalg.eigh(layer.outputs.matrix)
    turned = left.T @ weight @ right
    masses = lam.clamp(min=0)[:, None] * mu.clamp(min=0)
    if score == "obd":
        masses = masses * turned**2 / 2
    pairs = sorted(
        ((float(masses[i, j]), i, j) for i in range(len(lam)) for j in range(width)),
        reverse=True,
    )
    total, kept, held = float(masses.sum()), torch.zeros_like(turned), 0.0
    count = 0
    for mass, i, j in pairs:
        if held >= keep * total:
            break
        held, count = held + mass, count + 1
        kept[i, j] = turned[i, j]
    return left @ kept @ right.T, count


@pytest.mark.parametrize("score", ["mass", "obd"])
@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_the_edit_equals_one_by_hand(score, keep):
    task = task_of(mlp())
    found = factors(task, draws=3, examples=0)
    curve = edit_curve(task, found, keep=[keep], score=score)
    edited = curve.params(keep)
    for name in ("0.weight", "2.weight"):
        weight, count = by_hand(found[name], task.params[name], keep, score)
        assert torch.allclose(edited[name], weight, atol=1e-10)
        assert curve.pairs[name][0] == count
    assert torch.equal(edited["0.bias"], task.params["0.bias"])
    assert curve.loss[0] == pytest.approx(task.value(edited))


def test_keeping_all_gives_the_weights_bit_for_bit():
    task = objective("cnn")
    found = factors(la.Objective(task.model, la.supervised(F.cross_entropy), task.batches))
    curve = edit_curve(task, found, keep=[0.9, 1.0])
    whole = curve.params(1.0)
    assert all(torch.equal(whole[name], value) for name, value in task.params.items())
    assert curve.rise[-1] == 0
    assert curve.rise_stderr[-1] == 0
    assert {name: int(p[-1]) for name, p in curve.pairs.items()} == dict(curve.sizes)
    assert all(np.all(np.diff(pairs) >= 0) for pairs in curve.pairs.values())
    # The base is another copy: an edit that is put into the model can be undone.
    assert all(curve.base[name] is not value for name, value in task.params.items())


def test_embeddings_and_transposed_weights_keep_their_layout():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.matrix = nn.Embedding(6, 3), nn.Parameter(torch.randn(3, 4))
            # Far from saturation: a kept share of the curvature says little of larger losses.
            self.embed.weight.data.mul_(0.5)
            self.matrix.data.mul_(0.5)

        def forward(self, x):
            return self.embed(x) @ self.matrix

    x = torch.tensor([0, 1, 2, 0, 1, 0, 0, 5])
    task = la.Objective(Table(), la.supervised(F.cross_entropy), [(x, x % 4)])
    found = factors(task, examples=0)
    assert [layer.is_transposed for layer in found.layers] == [True, True]
    edited = edit_curve(task, found, keep=[0.999999]).params(0.999999)
    # Rows that no example reads have no curvature; what is kept is all that the loss sees.
    assert float(edited["embed.weight"][3].abs().max()) == 0
    assert torch.allclose(task.example_losses(edited), task.example_losses(), atol=0.02)


def test_both_sets_are_measured_with_paired_errors():
    task, other = task_of(mlp()), None
    other = task_of(task.model, examples=30, seed=1)
    curve = edit_curve(task, factors(task, examples=0), keep=[0.8, 0.99], against=other)
    for k, keep in enumerate((0.8, 0.99)):
        edited = curve.params(keep)
        for known, rise, stderr in (
            (task, curve.rise, curve.rise_stderr),
            (other, curve.other_rise, curve.other_rise_stderr),
        ):
            rows = known.example_losses(edited) - known.example_losses()
            assert rise[k] == pytest.approx(float(rows.mean()))
            assert stderr[k] == pytest.approx(float(rows.std() / len(rows) ** 0.5))
    assert curve.samples == (60, 30)
    assert [e.name for e in curve.estimates()] == [
        "keep 0.8", "keep 0.99", "other data, keep 0.8", "other data, keep 0.99",
    ]  # fmt: skip


def test_removing_by_saliency_is_predicted_on_a_quadratic():
    # Squared error of one linear map with G = I: the block is exact, and so is OBD.
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=draw, dtype=torch.float64) * torch.tensor([2.0, 1.0, 0.3])
    model = nn.Linear(3, 2, bias=False).double()
    y = model(x).detach()
    task = la.Objective(model, la.supervised(F.mse_loss), [(x, y)], check=False)
    found = factors(task, draws=400, examples=0)
    curve = edit_curve(task, found, keep=[0.6, 0.9], score="obd")
    for k, keep in enumerate((0.6, 0.9)):
        layer = found["weight"]
        change = layer.to_basis(
            layer.matrix_of(curve.params(keep)) - layer.matrix_of(curve.base)
        )
        predicted = float((layer.eigenvalues * change.square()).sum() / 2)
        # Labels are two a row: the sum over them is what G is divided by.
        assert curve.rise[k] == pytest.approx(predicted, rel=0.1)


def test_half_precision_says_what_the_cast_costs():
    task = task_of(mlp(), dtype=torch.bfloat16)
    found = factors(task, examples=0)
    curve = edit_curve(task, found, keep=[0.9, 1.0])
    assert curve.params(0.9)["0.weight"].dtype == torch.bfloat16
    assert 1e-4 < curve.cast_error[0] < 0.01
    assert curve.cast_error[1] == 0
    assert any("dtype" in sentence for sentence in curve.sentences())


def test_it_is_stored_drawn_and_said(tmp_path):
    task = task_of(mlp())
    curve = edit_curve(task, factors(task, examples=0), "0", against=task, keep=[0.9, 0.99, 1])
    assert la.load(curve.save(tmp_path / "edit.nc")) == curve
    assert len(repr(curve)) <= 400
    assert "kept" in curve.sentences()[0]
    ax = curve.plot()
    assert ax.get_xlabel() == "share of the mass kept"
    # A line at 0, and a band and a line for each of the data.
    assert len(curve.plot(backend="plotly").data) == 5
    assert "does not rise" in curve.sentences()[0]


def test_bad_arguments_are_named():
    task = task_of(mlp())
    found = factors(task, examples=0)
    for share in (0, 1.5, float("nan"), True):
        with pytest.raises(ArgumentError, match="`keep` must be above 0"):
            edit_curve(task, found, keep=[share])
    with pytest.raises(ArgumentError, match="at least one share"):
        edit_curve(task, found, keep=[])
    with pytest.raises(UnknownNameError, match="`score`"):
        edit_curve(task, found, score="svd")
    with pytest.raises(UnknownNameError, match="`layers`"):
        edit_curve(task, found, "9")
    with pytest.raises(StructureError, match="measure factors of the same model"):
        edit_curve(task_of(nn.Sequential(nn.Linear(5, 4))), found)
    bad = dict(task.params) | {"0.bias": task.params["0.bias"] * torch.nan}
    with pytest.raises(NonFiniteError):
        edit_curve(task, found, params=bad)
    with pytest.raises(ArgumentError, match="`keep`"):
        edit_curve(task, found, keep=[0.9]).params(0.0)
