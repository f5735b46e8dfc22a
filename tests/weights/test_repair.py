"""REPAIR: identities of statistics, ends, what is left alone."""

import numpy as np
import pytest
import torch
from networks import objective
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.weights import connect, repair


def pair(model, spread=1.0):
    torch.manual_seed(0)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    second = {
        k: v + spread * torch.randn_like(v) if v.is_floating_point() and "var" not in k else v
        for k, v in first.items()
    }
    return first, second


def middle(first, second, share=0.5):
    return {
        k: (1 - share) * v + share * second[k] if v.is_floating_point() else v
        for k, v in first.items()
    }


def task_of(model, *shape, batches=3):
    draw = torch.Generator().manual_seed(0)
    data = []
    for k in range(batches):
        x = torch.randn(20 + 5 * k, *shape, generator=draw).double() + 0.5
        data.append((x, torch.randint(0, 3, (len(x),), generator=draw)))
    return la.Objective(model.double(), la.supervised(F.cross_entropy), data)


def deep():
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    )  # fmt: skip


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(80, 3),
    )  # fmt: skip


def units(task, params, layer):
    """Mean and spread of the outputs of a layer, all data at once."""
    model = task.model
    x = torch.cat([batch[0] for batch in task.batches])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(params)
    out = model[: layer + 1](x).detach()
    model.load_state_dict(before)
    rows = out.movedim(1, -1).flatten(0, -2)
    return rows.mean(0), rows.std(0, correction=0)


def test_the_first_layer_loses_spread_as_the_formula_says():
    task = task_of(deep(), 6)
    first, second = pair(task.model)
    x = torch.cat([batch[0] for batch in task.batches])
    ends = [x @ end["0.weight"].T + end["0.bias"] for end in (first, second)]
    a, (s0, s1) = 0.3, [end.std(0, correction=0) for end in ends]
    centered = [(end - end.mean(0)) for end in ends]
    rho = (centered[0] * centered[1]).mean(0) / (s0 * s1)
    expected = (1 - a) ** 2 * s0**2 + a**2 * s1**2 + 2 * a * (1 - a) * rho * s0 * s1
    _, spread = units(task, middle(first, second, a), 0)
    assert torch.allclose(spread**2, expected)


@pytest.mark.parametrize(("make", "shape", "layers"), [
    (deep, (6,), (0, 2)), (convolutional, (1, 6, 6), (0, 2)),
])  # fmt: skip
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_units_have_the_statistics_of_the_ends(make, shape, layers, share):
    task = task_of(make(), *shape)
    first, second = pair(task.model)
    found = repair(task, middle(first, second, share), first, second, share)
    assert found.corrected == tuple(map(str, layers))
    assert "outputs" in found.skipped[str(len(task.model) - 1)]
    for layer in layers:
        ends = [units(task, end, layer) for end in (first, second)]
        mean, spread = units(task, dict(found.params), layer)
        for value, one, two in zip((mean, spread), *ends, strict=True):
            assert torch.allclose(value, (1 - share) * one + share * two, atol=1e-4)
    assert found.before < 1
    assert found.after == pytest.approx(1)
    last = f"{len(task.model) - 1}.weight"
    assert torch.equal(found.params[last], middle(first, second, share)[last])


@pytest.mark.parametrize("share", [0, 1])
def test_the_ends_stay_bit_for_bit(share):
    task = task_of(deep(), 6)
    first, second = pair(task.model)
    end = (first, second)[share]
    found = repair(task, end, first, second, share)
    assert all(torch.equal(found.params[k], v) for k, v in end.items())


def test_norm_layers_are_estimated_anew_and_what_feeds_them_is_left_alone():
    task = objective("cnn")
    first, second = pair(task.model, 0.3)
    point = middle(first, second)
    found = repair(task, point, first, second, 0.5)
    assert found.norms == ("1",)
    assert found.corrected == ("4",)
    assert found.skipped == {"0": "a norm layer follows", "7": "it gives the outputs"}
    x = torch.cat([batch[0] for batch in task.batches])
    out = F.conv2d(x, point["0.weight"], point["0.bias"])
    assert torch.allclose(found.params["1.running_mean"], out.mean((0, 2, 3)), atol=1e-5)
    assert not torch.allclose(point["1.running_mean"], out.mean((0, 2, 3)), atol=1e-2)
    # An objective that estimates statistics itself is left to do so.
    anew = objective("cnn", mode="recalibrated")
    assert repair(anew, point, first, second, 0.5).norms == ()


def test_transformers_with_recurrent_use_are_named():
    task = objective("lstm")
    first, second = pair(task.model)
    found = repair(task, middle(first, second), first, second, 0.5)
    assert found.corrected == ()
    assert "outputs" in found.skipped["head"]


def test_connect_repairs_every_point_but_the_ends():
    task = task_of(deep(), 6)
    first, second = pair(task.model)
    plain, repaired = (connect(task, first, second, repair=way) for way in (None, "all"))
    assert repaired.repaired == "all"
    assert repaired.loss[0] == plain.loss[0]
    assert repaired.loss[-1] == plain.loss[-1]
    k = int(np.flatnonzero(repaired.at == 0.5)[0])
    expected = repair(task, middle(first, second), first, second, 0.5).params
    assert repaired.loss[k] == pytest.approx(task.value(expected))
    bn = objective("cnn")
    ends = pair(bn.model, 0.3)
    norms = connect(bn, *ends, repair="norms")
    assert norms.loss[0] == connect(bn, *ends).loss[0]
    again = repair(bn, middle(*ends), *ends, 0.5).params
    kept = {k: v for k, v in middle(*ends).items() if "running" not in k}
    kept |= {k: v for k, v in again.items() if "running" in k}
    k = int(np.flatnonzero(norms.at == 0.5)[0])
    assert norms.loss[k] == pytest.approx(bn.value(kept), rel=1e-5)


def test_bad_arguments_are_named():
    task = task_of(deep(), 6)
    first, second = pair(task.model)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match="`share`"):
            repair(task, first, first, second, share)
    with pytest.raises(NonFiniteError, match="`second`"):
        repair(task, first, first, second | {"0.bias": first["0.bias"] * torch.nan}, 0.5)
