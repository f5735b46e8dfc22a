"""Alignment: planted elements come back, functions stay, what is not better is not taken."""

import pytest
import torch
from networks import network, objective

from lossatlas.errors import ArgumentError, NonFiniteError, StructureError, UnknownNameError
from lossatlas.weights import align, symmetries

MODELS = ("mlp", "cnn", "zero padded", "gated", "lstm", "unbound heads", "encoder")


def state_of(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_element_comes_back(name):
    task = objective(name)
    reference = state_of(task.model)
    found = symmetries(task)
    hidden = found.apply(reference, found.random(5))
    result = align(task, reference, hidden, by="best", starts=2)
    before, after = result.distance
    assert after <= 1e-5 * before
    assert result.after.value == pytest.approx(0.0, abs=1e-5)
    assert result.error <= 1e-5


@pytest.mark.parametrize("name", ["mlp", "unbound heads"])
def test_a_noisy_copy_comes_back(name):
    task = objective(name)
    reference = {k: v.detach().clone() for k, v in task.params.items()}
    found = symmetries(task)
    draw = torch.Generator().manual_seed(0)
    noise = {
        k: 0.05 * v.std() * torch.randn(v.shape, generator=draw) for k, v in reference.items()
    }
    noisy = {k: v + noise[k].nan_to_num() for k, v in reference.items()}
    result = align(task, reference, found.apply(noisy, found.random(2)))
    expected = (
        sum(float((noisy[k] - reference[k]).double().square().sum()) for k in noisy) ** 0.5
    )
    assert result.distance[1] <= 1.05 * expected


@pytest.mark.parametrize("by", ["weights", "activations", "best"])
def test_other_networks_keep_their_function(by):
    task = objective("cnn")
    reference, other = state_of(task.model), state_of(network("cnn", 1))
    result = align(task, reference, other, by=by, starts=1)
    changed = task.example_losses(result.params) - task.example_losses(other)
    assert changed.abs().max() < 1e-4
    assert result.after.value <= result.before.value
    assert result.after.stderr > 0
    if result.way.startswith("weights"):
        assert result.distance[1] < result.distance[0]


def test_the_same_network_is_left_alone():
    task = objective("mlp")
    result = align(task, task.params, task.params)
    assert result.way == "unchanged"
    assert result.distance == (0.0, 0.0)
    assert all(torch.equal(result.params[k], v) for k, v in task.params.items())


def test_bad_checkpoints_are_named():
    task = objective("mlp")
    good = {k: v.detach().clone() for k, v in task.params.items()}
    with pytest.raises(StructureError, match=r"'5\.bias'"):
        align(task, good, {k: v for k, v in good.items() if k != "5.bias"})
    with pytest.raises(NonFiniteError, match=r"`other` holds '1\.bias'"):
        align(task, good, good | {"1.bias": good["1.bias"] * float("nan")})
    with pytest.raises(UnknownNameError, match="`by` must be one of"):
        align(task, good, good, by="beast")
    with pytest.raises(ArgumentError, match="`starts`"):
        align(task, good, good, starts=0)


def test_statistics_move_along_where_only_parameters_are_given():
    task = objective("cnn")
    other = {k: v + 0.5 * torch.randn_like(v) for k, v in task.params.items()}
    found = align(task, dict(task.params), other, by="weights")
    assert torch.allclose(
        task.example_losses(found.params), task.example_losses(other), atol=1e-5
    )
    assert "1.running_mean" in found.params
