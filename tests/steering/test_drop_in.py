"""TopoAdamW, and what topoadamw 0.1.0 ships as its own tests."""

import copy
import logging
import pickle

import pytest
import torch
from test_controller import batch, network
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedulers

import lossatlas as la
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.steering import (
    GrowthPolicy,
    Reading,
    RegimePolicy,
    TopoAdamW,
    replay,
)


def made(model, **settings):
    return TopoAdamW(model.parameters(), model, lr=1e-2, **settings)


def go(model, optimizer, start, stop, probing=True):
    criterion = nn.CrossEntropyLoss()
    for step in range(start, stop):
        torch.random.default_generator.manual_seed(step)
        data, target = batch(step)
        optimizer.zero_grad()
        criterion(model(data), target).backward()
        if probing:
            optimizer.step(data=data, target=target, criterion=criterion)
        else:
            optimizer.step()
    return model, optimizer


def assert_same(a, b):
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_the_readme_example_runs_unchanged():
    train_loader = [batch(step) for step in range(3)]
    model = network()
    criterion = nn.CrossEntropyLoss()

    optimizer = TopoAdamW(model.parameters(), model, lr=1e-3, weight_decay=5e-4)

    for data, target in train_loader:
        optimizer.zero_grad()
        output = model(data)
        loss = criterion(output, target)
        loss.backward()
        optimizer.step(data=data, target=target, criterion=criterion)
    assert optimizer.steps == 3


def test_the_advanced_example_runs_unchanged():
    model = network()
    optimizer = TopoAdamW(
        model.parameters(),
        model,
        lr=1e-3,
        weight_decay=5e-4,
        interval=50,
        warmup_steps=150,
        max_lr_ratio=1.0,
        min_lr_ratio=0.2,
        probe_kwargs={"grid_size": 15, "span": 0.12, "n_samples": 16},
        verbose=True,
    )
    patch = optimizer.controller._instruments.grid
    assert (patch.span, patch.pairs) == (0.12, 8)
    assert patch.step == pytest.approx(0.12 / 7)
    assert optimizer.controller.due(ahead=200)
    assert not optimizer.controller.due(ahead=150)


def test_facts_of_the_original():
    model = network()
    optimizer = made(model, interval=1, warmup_steps=10)
    assert optimizer.steps == 0
    assert isinstance(optimizer, torch.optim.Optimizer)
    go(model, optimizer, 0, 1)
    assert optimizer.steps == 1
    assert optimizer.param_groups[0]["lr"] == 1e-2
    go(model, optimizer, 1, 30)
    assert 0.2e-2 <= optimizer.param_groups[0]["lr"] <= 1e-2
    _, plain = go(network(), made(model), 0, 3, probing=False)
    assert plain.steps == 3
    reading = optimizer.log.records[0].reading
    for value in (reading.loss, reading.sharpness, reading.variability):
        assert isinstance(value, float)


def test_facts_of_the_original_12_to_14_a_grid_is_a_map():
    model = network()
    before = copy.deepcopy(model)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch(0)])
    land = la.map_plane(objective, la.random_plane(objective), span=0.12, points=5)
    assert land.values.shape == (5, 5)
    assert (land.values > 0).all()
    assert_same(model, before)


@pytest.mark.parametrize(
    ("sharpness", "variability", "sign"),
    [(0.05, 0.1, 1), (0.6, 0.1, -1), (0.05, 0.6, -1), (0.15, 0.3, 0)],
)
def test_facts_of_the_original_15_to_18_the_labels(sharpness, variability, sign):
    seen = Reading(step=200, loss=1.0, sharpness=sharpness, variability=variability)
    for policy in (RegimePolicy(hysteresis=1), RegimePolicy(compat="0.1.0")):
        factor = replay(policy, [seen])[0].factor
        assert (factor > 1) - (factor < 1) == sign


def test_fact_23_of_the_original_a_small_average_brakes():
    model = network()
    optimizer = made(model, interval=1, warmup_steps=1)
    go(model, optimizer, 0, 2)
    optimizer.controller._controller.memory = {"average": 1e-6, "regime": "", "count": 0}
    go(model, optimizer, 2, 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.8e-2)
    assert "brake" in optimizer.log.records[-1].reason


def test_without_decisions_it_is_adamw_bit_for_bit():
    model = network()
    ours = go(model, made(model, interval=2, warmup_steps=0, min_lr_ratio=1.0), 0, 9)
    model = network()
    base = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=5e-4)
    bare = go(model, base, 0, 9, probing=False)
    assert_same(ours[0], bare[0])
    assert len(ours[1].log) == 4


def constant(optimizer):
    return schedulers.ConstantLR(optimizer)


@pytest.mark.parametrize("way", ["state", "deepcopy", "pickle"])
def test_it_goes_on_with_the_same_bits(way):
    def start():
        model = network()
        policy = RegimePolicy(hysteresis=1)
        settings = {"interval": 2, "warmup_steps": 0, "policy": policy, "scheduler": constant}
        return model, made(model, **settings)

    whole, half = go(*start(), 0, 9), go(*start(), 0, 4)
    if way == "state":
        resumed = start()
        for part, old in zip(resumed, half, strict=True):
            part.load_state_dict(copy.deepcopy(old.state_dict()))
    else:
        resumed = copy.deepcopy(half) if way == "deepcopy" else pickle.loads(pickle.dumps(half))
        assert resumed[1].model is resumed[0]
    go(*resumed, 4, 9)
    assert_same(whole[0], resumed[0])
    assert str(whole[1].log.records) == str(resumed[1].log.records)
    assert resumed[1].steps == 9


def test_a_state_of_adamw_is_taken():
    model = network()
    optimizer = made(model)
    base = torch.optim.AdamW(model.parameters(), lr=0.5)
    optimizer.load_state_dict(base.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.steps == 0


def test_grad_scaler_passes_the_batch_on():
    model = network()
    optimizer = made(model, interval=1, warmup_steps=0)
    scaler = torch.amp.GradScaler("cpu")
    data, target = batch(0)
    scaler.scale(F.cross_entropy(model(data), target)).backward()
    scaler.step(optimizer, data=data, target=target, criterion=F.cross_entropy)
    scaler.update()
    assert len(optimizer.log) == 1


def test_decisions_are_logged_not_printed(caplog, capsys):
    model = network()
    with caplog.at_level(logging.INFO, "lossatlas.steering"):
        go(model, made(model, interval=1, warmup_steps=0, verbose=True), 0, 2)
    assert len(caplog.records) == 2
    assert "step 1 | " in caplog.text
    assert capsys.readouterr().out == ""


def test_policies_that_decide_before_the_update_do_so_once():
    model = network()
    optimizer = made(model, policy=GrowthPolicy(every=1), warmup_steps=0)
    go(model, optimizer, 0, 3)
    assert optimizer.log.column("step").tolist() == [0, 1, 2, 3]


def test_bad_input_is_named():
    model = network()
    with pytest.raises(ArgumentError, match="use_topo_cnn"):
        made(model, use_topo_cnn=True)
    with pytest.raises(UnknownNameError, match="did you mean 'span'"):
        made(model, probe_kwargs={"spam": 1})
    with pytest.raises(ArgumentError, match="examples"):
        made(model, probe_kwargs={"examples": 0})
    with pytest.raises(ValueError, match="one for each of 1"):
        made(model, min_lr_ratio=[0.1, 0.1])
    with pytest.raises(ArgumentError, match="given together"):
        made(model).step(data=torch.zeros(1))
