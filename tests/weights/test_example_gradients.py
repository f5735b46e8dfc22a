"""Gradients of single examples: alone where that is the same, else one pass of all for each."""

import pytest
import torch
from networks import network, objective, pictures
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import LossError, NonFiniteError
from lossatlas.weights import example_gradients as room
from lossatlas.weights import merge


def by_hand(task):
    """One backward pass of the whole batch for every example."""
    leaves = {n: v.detach().clone().requires_grad_() for n, v in task.params.items()}
    rows, every = [], list(leaves.values())

    def walk():
        for batch in task.batches:
            rows.extend(
                torch.autograd.grad(one, every, allow_unused=True, retain_graph=True)
                for one in task.batch_loss(batch)
            )

    with torch.enable_grad():
        task.with_params(leaves, walk)
    zero = {n: torch.zeros_like(v) for n, v in leaves.items()}
    return {
        n: torch.stack([zero[n] if row[k] is None else row[k] for row in rows])
        for k, n in enumerate(leaves)
    }


def check_mean_squares(task):
    squares = room.squared_gradients(task, task.params)
    for name, rows in by_hand(task).items():
        mean = rows.square().mean(0)
        tolerance = 1e-5 * float(mean.max()) + 1e-12
        assert torch.allclose(squares[name], mean, rtol=1e-3, atol=tolerance), name


@pytest.mark.parametrize("name", ["cnn", "gated", "experts", "unbound heads", "lstm"])
def test_the_diagonal_is_the_mean_square_of_all_gradients(name):
    task = objective(name)
    check_mean_squares(task)


def test_weights_of_examples_count_once_and_none_is_left_out():
    shares = torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0, 1.0])

    def loss(model, batch):
        each = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        weights = shares[: len(each)] if len(each) > 1 else batch[2]
        return la.Weighted(each * weights, weights)

    batches = [(x, y, shares) for x, y in pictures()]
    task = la.Objective(network("mlp"), loss, batches)
    plain = by_hand(objective("mlp"))
    share = shares.repeat(2)
    found = room.squared_gradients(task, task.params)
    for n, rows in plain.items():
        wide = share.view(-1, *[1] * (rows.ndim - 1))
        expected = (wide * rows.square()).sum(0) / share.sum()
        assert torch.allclose(found[n], expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("way", ["mode", "loss", "refuses"])
def test_examples_that_depend_on_others_are_taken_together(way):
    def loss(model, batch):
        if way == "refuses" and len(batch[0]) == 1:
            raise ValueError("one example is no batch")
        scores = model(batch[0])
        other = scores.mean(0) if way == "loss" else 0.0
        return F.cross_entropy(scores - other, batch[1], reduction="none")

    mode = "train" if way == "mode" else "eval"
    task = la.Objective(network("cnn"), loss, pictures(), mode=mode, check=False)
    assert task.unit == "examples"
    check_mean_squares(task)


def test_a_merge_by_default_weighs_by_it():
    task = objective("mlp")
    base = {n: v.clone() for n, v in task.params.items()}
    draw = torch.Generator().manual_seed(0)
    experts = [
        {n: v + 0.1 * torch.randn(v.shape, generator=draw) for n, v in base.items()}
        for _ in range(2)
    ]
    given = [room.squared_gradients(task, expert) for expert in experts]
    one = merge(task, base, *experts, method="fisher", objectives=[task, task])
    two = merge(task, base, *experts, method="fisher", importances=given)
    assert all(torch.equal(one.params[n], two.params[n]) for n in base)


def test_what_has_no_examples_or_no_numbers_is_named():
    means = la.Objective(
        network("mlp"), lambda m, b: F.cross_entropy(m(b[0]), b[1]), pictures()
    )
    with pytest.raises(LossError, match="every example"):
        room.squared_gradients(means, means.params)
    task = objective("mlp")
    huge = {n: v * torch.nan for n, v in task.params.items()}
    with pytest.raises(NonFiniteError, match="is not finite"):
        room.squared_gradients(task, huge)
