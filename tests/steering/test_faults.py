"""What goes wrong around a controller is said: two rates at once, overfitting, lost steps."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedulers

from lossatlas.result import Estimate
from lossatlas.rng import generator
from lossatlas.steering import (
    EdgePolicy,
    GrowthPolicy,
    LandscapeLR,
    PlateauCooldown,
    Reading,
    RegimePolicy,
    replay,
)
from lossatlas.steering.policies.growth import VALID_RISES


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(step):
    drawn = generator("faults", step)
    return torch.randn(16, 5, generator=drawn), torch.randint(0, 3, (16,), generator=drawn)


def go(model, optimizer, controller, start, stop, **told):
    for step in range(start, stop):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        controller.step(lambda x=x, y=y: F.cross_entropy(model(x), y), loss=loss, **told)


@pytest.mark.parametrize("policy", [GrowthPolicy(), PlateauCooldown()])
def test_a_policy_on_a_decaying_schedule_warns_once(policy):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Warm-up, then a decay: what a Hugging Face Trainer has by default.
    linear = schedulers.LambdaLR(optimizer, lambda t: min((t + 1) / 3, (10 - t) / 7))
    controller = LandscapeLR(optimizer, policy, scheduler=linear)
    go(model, optimizer, controller, 0, 2)
    with pytest.warns(UserWarning, match="the rate falls twice") as caught:
        go(model, optimizer, controller, 2, 6)
    assert len(caught) == 1


def test_policies_that_cut_a_schedule_do_not_warn():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cosine = schedulers.CosineAnnealingLR(optimizer, 6)
    controller = LandscapeLR(optimizer, EdgePolicy(), scheduler=cosine, interval=2)
    go(model, optimizer, controller, 0, 6)
    assert optimizer.param_groups[0]["lr"] < 1e-6


class Estimating(torch.optim.SGD):
    """Keeps its estimate of the rate as Prodigy does."""

    def __init__(self, params):
        super().__init__(params, lr=1.0)
        self.param_groups[0]["d"] = 1e-6


def test_growth_on_an_optimizer_that_finds_its_rate_warns():
    with pytest.warns(UserWarning, match="Estimating estimates its rate by itself"):
        LandscapeLR(Estimating(network().parameters()), GrowthPolicy())
    LandscapeLR(Estimating(network().parameters()), RegimePolicy())


def test_a_validation_loss_that_rises_twice_halves_the_rate_for_good():
    seen = [1.0, 0.8, 0.805, 0.9, 0.85, 0.7, 0.9, 0.9]
    readings = [
        Reading(
            4 * step, valid_loss=value, distance=30.0, step_length=2.0, scale=(1.0,),
            normalized=True,
        )
        for step, value in enumerate(seen, start=1)
    ]  # fmt: skip
    reasons = [d.reason for d in replay(GrowthPolicy(), readings)]
    assert [i for i, r in enumerate(reasons) if r == VALID_RISES] == [4, 7]
    assert replay(GrowthPolicy(), readings)[5].factor == 0.5


@pytest.mark.parametrize("told", [lambda v: v, lambda v: Estimate(v, 0.1)])
def test_overfitting_is_said(told):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    controller = LandscapeLR(optimizer, GrowthPolicy())
    go(model, optimizer, controller, 0, 4, validation=told(1.0))
    with pytest.warns(UserWarning, match="validation loss rises"):
        go(model, optimizer, controller, 4, 16, validation=told(1.2))
    assert VALID_RISES in controller.log.column("reason")
    assert controller.log[-1].reading.valid_loss == 1.2
    go(model, optimizer, controller, 16, 20)
    assert math.isnan(controller.log[-1].reading.valid_loss)


def test_a_tracker_that_fails_does_not_end_the_training(monkeypatch):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    controller = LandscapeLR(optimizer, GrowthPolicy())
    go(model, optimizer, controller, 0, 4)
    tracker = controller._instruments._tracker

    def broken(scales):
        raise RuntimeError("no such tensor")

    monkeypatch.setattr(tracker, "track", broken)
    with pytest.warns(UserWarning, match="not followed any more: no such tensor"):
        go(model, optimizer, controller, 4, 8)
    assert controller.log[-1].failed


def test_adaptive_intervals_grow_while_decisions_agree():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"policy": RegimePolicy(hysteresis=1), "interval": 2, "warmup": 0}
    controller = LandscapeLR(optimizer, max_interval=8, **settings)
    go(model, optimizer, controller, 0, 40)
    steps = controller.log.column("step").tolist()
    reasons = controller.log.column("reason").tolist()
    gap = 2
    for index in range(1, len(steps) - 1):
        gap = min(2 * gap, 8) if reasons[index] == reasons[index - 1] else 2
        assert steps[index + 1] - steps[index] == gap
    assert max(b - a for a, b in itertools.pairwise(steps)) == 8


def test_adaptive_intervals_go_on_with_the_same_bits():
    def made():
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return (
            model,
            optimizer,
            LandscapeLR(optimizer, RegimePolicy(), interval=2, max_interval=8, warmup=0),
        )

    whole, half, resumed = made(), made(), made()
    go(*whole, 0, 30)
    go(*half, 0, 13)
    for new, old in zip(resumed, half, strict=True):
        new.load_state_dict(old.state_dict())
    go(*resumed, 13, 30)
    assert str(resumed[2].log.records) == str(whole[2].log.records)
