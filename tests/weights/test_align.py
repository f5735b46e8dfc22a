"""Alignment: planted elements come back, functions stay, what is not better is not taken."""

import sys

import pytest
import torch
from live_bytes import LiveBytes
from networks import network, objective, token_loss, tokens
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError, StructureError, UnknownNameError
from lossatlas.training.chargpt import CharGPT
from lossatlas.weights import align, align_many, alignment_cost, symmetries
from lossatlas.weights.activations import Correlations
from lossatlas.weights.symmetries import find

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
    network(name).load_state_dict(result.params)


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


@pytest.mark.parametrize("sizes", [(4, 2), (2, 4)])
def test_batches_of_different_length_are_matched_by_activations(sizes):
    batches = [tuple(part[:n] for part in b) for n, b in zip(sizes, tokens(), strict=True)]
    task = la.Objective(network("split heads"), token_loss, batches)
    reference, found = state_of(task.model), symmetries(task)
    hidden = found.apply(reference, found.random(2))
    result = align(task, reference, hidden, by="activations")
    assert result.distance[1] <= 1e-5 * result.distance[0]


def test_statistics_are_estimated_once_for_all_activations():
    task = objective("cnn", mode="recalibrated")
    found, places = find(task)
    ends = [network("cnn", seed).state_dict() for seed in range(2)]
    first, second = (dict(task.split(end).whole) for end in ends)
    pairs = [(k, k) for k in range(len(found.groups))]
    measure = Correlations(task, found, places, pairs)
    fast = measure.between(first, second)
    # The slow twin: the mode estimates them anew for each batch.
    measure._settled, measure._fixed = lambda params: params, task
    slow = measure.between(first, second)
    assert fast.keys() == slow.keys() == set(pairs)
    assert all(torch.allclose(fast[k], slow[k], atol=1e-5) for k in pairs)


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


def test_refining_trains_a_candidate_and_keeps_the_function():
    task = objective("cnn")
    # Far from each other, so that halfway the loss is high.
    reference, other = (
        {k: 3 * v if "weight" in k else v for k, v in state_of(network("cnn", seed)).items()}
        for seed in range(2)
    )
    run = [align(task, reference, other, by="weights", refine=20, lr=0.05) for _ in range(2)]
    found = run[0]
    assert found == run[1]
    others = [e.value for way, e in found.tried.items() if way != "refined"]
    assert found.tried["refined"].value < min(others)
    moved = align(task, reference, other, by="weights", refine=20, lr=0.05, train=task)
    assert moved == found
    lowest = min(max(e.value, 0.0) for e in found.tried.values())
    assert found.after.value <= lowest + found.after.stderr + 1e-6
    changed = task.example_losses(found.params) - task.example_losses(other)
    assert changed.abs().max() < 1e-4
    with pytest.raises(ArgumentError, match="`refine`"):
        align(task, reference, other, refine=-1)


def wide_mlp():
    layers = [nn.Linear(3000, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 5)]
    batch = torch.randn(2, 3000), torch.arange(2)
    return la.Objective(nn.Sequential(*layers), la.supervised(F.cross_entropy), [batch])


def wide_gpt():
    model = CharGPT(vocabulary=3000, block=4, layers=1, heads=2, width=32)
    text = torch.randint(0, 3000, (1, 4))
    return la.Objective(model, token_loss, [(text, text)])


@pytest.mark.parametrize("make", [wide_mlp, wide_gpt])
def test_memory_is_that_of_two_networks_and_is_said_beforehand(make, monkeypatch):
    # As if these were large networks: tensors are worked on in small pieces.
    for module in ("places", "network_checks", "matching", "align_cost"):
        monkeypatch.setattr(sys.modules[f"lossatlas.weights.{module}"], "ROOM", 2**12)
    task = make()
    reference = {k: v.detach().clone() for k, v in task.params.items()}
    found = symmetries(task)
    moved = found.apply(reference, found.random(1))
    noisy = {k: v + 0.001 * torch.randn_like(v) for k, v in moved.items()}
    buffers = dict(task.model.named_buffers())
    with LiveBytes(dict(task.model.named_parameters()), buffers, reference, noisy) as live:
        result = align(task, reference, noisy, starts=1)
    copy = sum(v.nbytes for v in reference.values())
    assert result.distance[1] < 0.2 * result.distance[0]
    assert copy < live.peak <= 3 * copy
    assert alignment_cost(task, starts=1).memory == pytest.approx(live.peak, rel=0.2)


@pytest.mark.parametrize("name", ["mlp", "unbound heads", "zero padded"])
def test_planted_elements_of_many_networks_come_back(name):
    task = objective(name)
    start = {k: v.detach().clone() for k, v in task.params.items()}
    found = symmetries(task)
    draw = torch.Generator().manual_seed(0)
    kept = {k: v.clone() for k, v in task.model.named_buffers()}
    near = [
        kept | {k: v + 0.02 * torch.randn(v.shape, generator=draw) for k, v in start.items()}
        for _ in range(4)
    ]
    hidden = [near[0], *(found.apply(p, found.random(k)) for k, p in enumerate(near[1:]))]
    result = align_many(task, *hidden)
    assert all(torch.equal(result.params[0][k], near[0][k]) for k in task.names)
    spread = [torch.stack([p[k] for p in near]).var(0, correction=0).sum() for k in start]
    assert result.distance[1] <= 1.01 * float(sum(spread)) ** 0.5
    assert result.distance[1] < 0.5 * result.distance[0]
    assert abs(result.after.value) < min(0.05, abs(result.before.value) / 5)
    assert result.error <= 1e-4
    assert result.rounds >= 1
    with pytest.raises(ArgumentError, match="two or more"):
        align_many(task, start)
    with pytest.raises(NonFiniteError, match="`network 2`"):
        align_many(task, start, {k: v * float("nan") for k, v in start.items()})


def test_the_cost_is_said_beforehand():
    task = objective("unbound heads")
    cost = alignment_cost(task, starts=2)
    copy = sum(v.nbytes for v in task.params.values())
    assert cost.memory >= 2 * copy
    # The stream of 16 alone: products with all that it touches, 3 sweeps of 3 runs.
    assert cost.operations > 9 * 2 * 16 * copy / 4 / 2
    assert cost.seconds > 0
    assert alignment_cost(task, by="activations").operations == 0
    assert "MiB" in str(cost)
    with pytest.raises(UnknownNameError, match="`by`"):
        alignment_cost(task, by="beast")
