"""Pieces of batches: another loss in pieces is refused, first derivatives serve CTC."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import gradient_noise, m_sharpness, spectrum, zero_sum_gradients
from lossatlas.curvature.pieces import pieces_of
from lossatlas.errors import ArgumentError, LossError
from lossatlas.objective.batches import cut
from reference.curvature_cases import classes, initialized, mlp, normal


def _classified(loss, count=24):
    return la.Objective(mlp(), loss, [(normal(count, 4), classes(count, 3))])


def _contrastive(model, batch):
    first, second = (F.normalize(model(x), dim=1) for x in batch)
    return F.cross_entropy(first @ second.T / 0.3, torch.arange(len(first)))


def _masked(model, batch):
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    weights = torch.linspace(0, 1, 24)[: len(losses)].double()
    return (losses * weights).sum() / weights.sum()


def test_a_contrastive_loss_has_no_pieces():
    views = normal(24, 4)
    objective = la.Objective(mlp(), _contrastive, [(views, views + 0.1)])
    with pytest.raises(
        LossError, match=r"is not that of its pieces \(.* whole, .* in 6 pieces"
    ):
        m_sharpness(objective, 4)
    # One set of all examples is the whole batch.
    assert m_sharpness(objective, 24).value > 0


def test_a_mean_with_weights_has_no_pieces():
    with pytest.raises(LossError, match="has weights or a mask"):
        m_sharpness(_classified(_masked), 6)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ordinary_losses_come_in_pieces(reduction, dtype):
    model = mlp().to(dtype)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    objective = la.Objective(model, loss, [(normal(50, 4).to(dtype), classes(50, 3))])
    assert len(pieces_of(objective, 7)) == 8


def test_norm_layers_with_batch_statistics_are_served():
    model = initialized(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))
    batch = (normal(24, 4), classes(24, 3))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch], mode="train")
    assert m_sharpness(objective, 6).value > 0


def test_a_size_that_no_batch_has_is_named_before_anything_is_cut():
    with pytest.raises(ArgumentError, match="no batch holds 30"):
        m_sharpness(_classified(_masked), 30)


def test_groups_of_a_contrastive_loss_are_refused():
    views = normal(24, 4)

    def loss(model, batch):
        return _contrastive(model, batch[:2])

    objective = la.Objective(mlp(), loss, [(views, views + 0.1, classes(24, 3))])
    with pytest.raises(LossError, match="a group has no loss of its own"):
        spectrum(objective, 1, 1, density=False, by="class", labels=lambda b: b[2])


def test_jagged_nested_tensors_are_cut():
    parts = [normal(n, 3, seed=n) for n in (2, 5, 3, 4)]
    nested = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
    batch = {"x": nested, "y": classes(4, 2)}
    piece = cut(batch, 1, 3)
    assert [len(row) for row in piece["x"].unbind()] == [5, 3]
    assert torch.equal(piece["x"].unbind()[1], parts[2])
    assert torch.equal(piece["y"], batch["y"][1:3])


# First derivatives are enough for the noise of the gradient


def _ctc(count=16):
    def loss(model, batch):
        inputs, targets, lengths, target_lengths = batch
        scores = model(inputs).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, targets, lengths, target_lengths, reduction="none")

    targets = classes(count * 3, 4).reshape(count, 3) + 1
    lengths = torch.full((count,), 9), torch.full((count,), 3)
    batch = (normal(count, 9, 4), targets, *lengths)
    return la.Objective(initialized(nn.Linear(4, 5)), loss, [batch])


def _gradients(objective):
    losses = objective.loss(objective.model, objective.batches[0])
    points = list(objective.model.parameters())
    rows = [torch.autograd.grad(loss, points, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([p.flatten() for p in row]) for row in rows])


def test_the_noise_scale_of_ctc_needs_first_derivatives_only():
    objective = _ctc()
    rows = _gradients(objective)
    found = gradient_noise(objective, probes=400)
    scatter = float((rows - rows.mean(0)).square().sum(1).sum() / (len(rows) - 1))
    assert found.scatter.value == pytest.approx(scatter, rel=0.1)
    along = (rows @ rows.mean(0)).numpy()
    length = float(rows.mean(0).norm())
    assert found.norm.value == pytest.approx(length)
    assert found.norm.stderr == pytest.approx(along.std(ddof=1) / 4 / length)
    assert zero_sum_gradients(objective).overall.value > 0
    assert m_sharpness(objective, 4).value > 0
    with pytest.raises(LossError, match="_ctc_loss_backward has no second derivative"):
        spectrum(objective)


def test_errors_of_the_scatter_hold_the_examples():
    # One example has a gradient a hundred times longer: probes alone see no error in that.
    inputs = normal(64, 4)
    inputs[0] *= 100

    def loss(model, batch):
        return model(batch).sum(1)

    objective = la.Objective(initialized(nn.Linear(4, 1)), loss, [inputs])
    found = gradient_noise(objective, probes=64).scatter
    assert found.stderr > 0.7 * found.value
    assert found.samples == 20
    one = gradient_noise(objective, probes=1)
    assert np.isnan(one.scatter.stderr)
    assert "folds" in one.scatter.why_no_error
