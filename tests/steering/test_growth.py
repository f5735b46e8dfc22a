import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.log import replay
from lossatlas.steering.policies import GrowthPolicy
from lossatlas.steering.reading import Reading
from lossatlas.steering.signals import DistanceTracker

POLICY = GrowthPolicy(scale=2.0, initial_step=1e-2, growth=4.0)
OPENING = Reading(step=0, size=10.0, step_length=5.0, scale=(1.0,))


def later(step, reach, stride, scale, loss=1.0, error=0.01):
    return Reading(
        step=step,
        distance=reach,
        step_length=stride,
        momentum=0.0,
        normalized=True,
        scale=(scale,),
        train_loss=loss,
        train_error=error,
        train_count=4,
    )


def test_the_first_step_is_timid():
    assert replay(POLICY, [OPENING])[0].factor == pytest.approx(0.02)
    assert replay(POLICY, [replace(OPENING, step_length=0.0)])[0].factor == 1.0
    assert replay(POLICY, [replace(OPENING, size=0.0)])[0].factor == 1.0


def test_the_scale_is_pace_times_reach_over_a_random_walk():
    assert replay(POLICY, [later(4, 3.0, 2.0, 1.0)])[0].factor == pytest.approx(3.0)
    with_momentum = replace(later(4, 3.0, 2.0, 1.0), momentum=0.6)
    assert replay(POLICY, [with_momentum])[0].factor == pytest.approx(1.5)
    assert replay(POLICY, [later(4, 30.0, 2.0, 1.0)])[0].factor == 4.0
    eased = replay(POLICY, [later(4, 0.1, 2.0, 1.0)])[0]
    assert (eased.factor, eased.reason) == (pytest.approx(0.1), "lower")


def test_plain_gradients_go_slower():
    sgd_factor = replace(later(4, 3.0, 2.0, 1.0), normalized=False)
    assert replay(POLICY, [sgd_factor])[0].factor == pytest.approx(0.4 * 3.0)


def test_a_loss_that_leaps_halves_the_scale_for_good():
    path = [
        later(4, 3.0, 2.0, 1.0),
        later(8, 3.0, 2.0, 3.0, loss=2.1),
        later(12, 30.0, 2.0, 1.5, loss=1.0),
    ]
    factors = [d.factor for d in replay(POLICY, path)]
    assert factors == pytest.approx([3.0, 1.5, 1.5])
    unsure = [path[0], replace(path[1], train_error=0.1)]
    assert replay(POLICY, unsure)[1].reason == "lower"


def test_an_average_that_rises_halves_the_scale_and_waits():
    low = [later(4, 3.0, 2.0, 3.0)] * 3
    high = [later(4, 3.0, 2.0, 3.0, loss=1.9)] * 12
    reasons = [d.reason for d in replay(POLICY, low + high)]
    falls = [i for i, reason in enumerate(reasons) if reason == "loss rises: fall back"]
    assert falls[0] > 4
    assert all(b - a > POLICY.patience for a, b in itertools.pairwise(falls))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_brakes(bad):
    decisions = replay(POLICY, [later(4, 3.0, 2.0, 1.0), later(8, 3.0, 2.0, 3.0, loss=bad)])
    assert decisions[1].factor == 1.5
    unwatched = replace(later(4, 3.0, 2.0, 1.0), train_count=0, train_loss=math.nan)
    assert replay(POLICY, [unwatched])[0].factor == pytest.approx(3.0)


def walked(travel, weights, steps, scales=(1.0,)):
    for step in steps:
        with torch.no_grad():
            for w in weights:
                w.add_(step)
        travel.track(list(scales))


def test_straight_walks_reach_as_far_as_their_steps():
    w = torch.zeros(3, 7, requires_grad=True)
    travel = DistanceTracker(torch.optim.SGD([w], lr=0.1))
    travel.begin()
    walked(travel, [w], [0.5] * 4)
    reach, stride = travel.read()
    assert reach == pytest.approx(2.0 * math.sqrt(21))
    assert stride == pytest.approx(0.5 * math.sqrt(21 * 4))
    walked(travel, [w], [-0.5] * 4, scales=(0.5,))
    reach, stride = travel.read()
    assert reach == pytest.approx(2.0 * math.sqrt(21))
    assert stride == pytest.approx(math.sqrt(21 * 4 * (0.25 + 1.0)))


def test_large_weights_are_extrapolated_from_a_sample():
    w = torch.zeros(300, 200, requires_grad=True)
    travel = DistanceTracker(torch.optim.SGD([w], lr=0.1))
    travel.begin()
    kick = torch.randn(300, 200, generator=generator(0))
    with torch.no_grad():
        w.add_(kick)
    travel.track([1.0])
    reach, stride = travel.read()
    assert reach == pytest.approx(kick.norm().item(), rel=0.1)
    assert stride == reach
    assert sum(s.numel() for s in travel.state()["start"].values()) < 1100


def test_the_opening_knows_the_first_stride():
    w = torch.full((4, 4), 2.0, requires_grad=True)
    w.grad = torch.full((4, 4), 3.0)
    size, stride = DistanceTracker(torch.optim.SGD([w], lr=0.1)).opening()
    assert (size, stride) == (pytest.approx(8.0), pytest.approx(0.1 * 12.0))
    assert DistanceTracker(torch.optim.Adam([w], lr=0.1)).opening()[1] == pytest.approx(0.4)


def trained(lr, steps=40, stop=None, optimizer=torch.optim.Adam, policy=None):
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    made = optimizer(model.parameters(), lr=lr)
    policy = policy or GrowthPolicy()
    controller = LandscapeLR(made, policy)
    for step in range(steps):
        if step == stop:
            state = [part.state_dict() for part in (model, made, controller)]
            made = optimizer(model.parameters(), lr=lr)
            controller = LandscapeLR(made, policy)
            for part, kept in zip((model, made, controller), state, strict=True):
                part.load_state_dict(kept)
        x = torch.randn(32, 4, generator=generator("climb", step))
        made.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True).sin()).square().mean()
        loss.backward()
        made.step()
        controller.step(loss=loss)
    return model, made, controller


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_the_base_rate_drops_out(optimizer):
    ends = [trained(2.0**k, optimizer=optimizer) for k in (-13, 0)]
    rates = [made.param_groups[0]["lr"] for _, made, _ in ends]
    assert rates[0] == pytest.approx(rates[1], rel=1e-2)
    for a, b in zip(*(model.parameters() for model, _, _ in ends), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_it_climbs_and_the_log_says_why():
    policy = GrowthPolicy(initial_step=3e-3)
    _, _, controller = trained(1e-6, policy=policy)
    reasons = controller.log.column("reason").tolist()
    assert reasons[0] == "initial step"
    assert reasons[2:] == ["raise"] * 9
    assert controller.scales[0] > 3 * controller.log.column("scale")[0]
    decided = controller.log.replay(policy)
    assert [d.factor for d in decided] == controller.log.column("factor").tolist()


@pytest.mark.parametrize("stop", [1, 6, 20])
def test_it_resumes_with_the_same_bits(stop):
    (whole, _, a), (resumed, _, b) = trained(1e-3), trained(1e-3, stop=stop)
    for x, y in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(x, y)
    assert str(a.log.records) == str(b.log.records)


def test_groups_that_come_later_are_followed():
    first, second = (torch.zeros(2, 2, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([first], lr=0.1)
    controller = LandscapeLR(optimizer, GrowthPolicy(every=1))
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": [second], "lr": 0.2})
        for w in (first, second):
            w.grad = torch.ones(2, 2)
        optimizer.step()
        controller.step(loss=1.0)
    assert len(controller.scales) == 2
    assert controller.log.records[-1].reading.distance > 0


def test_bad_settings_are_named():
    with pytest.raises(ArgumentError, match="`scale`"):
        GrowthPolicy(scale=0.0)
    with pytest.raises(ArgumentError, match="`initial_step`"):
        GrowthPolicy(initial_step=-1.0)
    with pytest.raises(ArgumentError, match="`unproven_growth`"):
        GrowthPolicy(unproven_growth=0.5)


def climbing(losses, policy, count=4):
    """Decisions on steps that lead straight on."""
    # A first scale of 0.02, and a distance that asks for 20 at every decision.
    path = [
        replace(
            later(4 * i, 20.0, 2.0, min(0.02 * 4.0 ** (i - 1), 8.0), loss), train_count=count
        )
        for i, loss in enumerate(losses, 1)
    ]
    return replay(policy, [OPENING, *path])[1:]


def test_an_unproven_rate_is_held_until_the_loss_falls():
    held = replace(POLICY, unproven_growth=8.0)
    found = climbing([1.0] * 5 + [0.5] * 3, held)
    assert [d.factor for d in found[1:5]] == pytest.approx([0.16] * 4)
    assert found[4].reason == "hold: the loss has not fallen"
    assert found[-1].factor > 0.16
    assert climbing([1.0] * 5, POLICY)[-1].factor > 8.0
    # A fall within the errors proves nothing, and where no loss is told nothing can be proven.
    assert climbing([1.0] * 5 + [0.99] * 9, held)[-1].factor == pytest.approx(0.16)
    assert climbing([math.nan] * 5, held, count=0)[-1].factor > 8.0


def plateau(slope):
    """A training whose loss is what is told; the rate climbs along a straight line."""
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.0)
    controller = LandscapeLR(optimizer, GrowthPolicy())
    for step in range(100):
        weight.grad = torch.ones(4)
        optimizer.step()
        controller.step(loss=2.0 - slope * step)
    return controller


def test_a_rate_that_climbs_on_a_plateau_is_told_once():
    with pytest.warns(UserWarning, match="has not fallen") as caught:
        controller = plateau(0.0)
    assert len(caught) == 1
    said = [r.reading.step for r in controller.log if "not fallen" in r.reason]
    assert len(said) > 1
    assert said[0] >= 64
    # Warnings are errors here: a loss that falls leads to none.
    plateau(0.01)
