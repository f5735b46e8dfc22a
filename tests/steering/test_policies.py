import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.rng import generator
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.log import replay
from lossatlas.steering.policies import (
    EdgePolicy,
    MoMoPolicy,
    NoisePolicy,
    PlateauCooldown,
    RegimePolicy,
)
from lossatlas.steering.reading import Decision, Reading
from lossatlas.steering.signals import layer_groups, model_signals
from reference.steering_momo import NaiveMoMo, NaiveMoMoAdam
from reference.steering_recorded import TOPOADAMW_0_1_0

FLAT = Reading(step=1, loss=1.0, sharpness=0.05, variability=0.1)


def reading(loss=1.0, sharpness=0.05, variability=0.1):
    return Reading(step=1, loss=loss, sharpness=sharpness, variability=variability)


# Regime

TABLE = {
    "flat": ((0.05, 0.1), 1.15),
    "very sharp": ((0.6, 0.1), 0.80),
    "moderately sharp": ((0.3, 0.1), 0.95),
    "moderately sharp and rough": ((0.3, 0.6), 0.95),
    "rough": ((0.05, 0.6), 0.85),
    "neutral": ((0.15, 0.3), 1.0),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_the_table(row):
    (sharpness, variability), factor = row
    seen = reading(1.0, sharpness, variability)
    assert replay(RegimePolicy(hysteresis=1), [seen])[0].factor == factor


def test_a_regime_counts_when_it_is_confirmed():
    sharp = replace(FLAT, sharpness=0.6)
    factors = [d.factor for d in replay(RegimePolicy(), [FLAT, sharp, sharp, FLAT, sharp])]
    assert factors == [1.0, 1.0, 0.8, 1.0, 1.0]


def test_the_brake_looks_at_the_average_before_this_loss():
    policy = RegimePolicy(hysteresis=1)
    first, spike = reading(1.0), reading(2.01)
    assert replay(policy, [spike])[0].reason == "flat"
    assert replay(policy, [first, spike])[1] == Decision(
        0.80, "loss above 2 x its average: brake"
    )
    assert replay(policy, [first, reading(1.99)])[1].reason == "flat"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_brakes_and_is_forgotten(bad):
    policy = RegimePolicy(hysteresis=1)
    decisions = replay(policy, [reading(1.0), reading(bad), reading(2.01)])
    assert decisions[1].factor == 0.80
    assert "brake" in decisions[2].reason


@pytest.mark.parametrize("loss", [0.0, -3.0])
def test_indicators_relative_to_no_loss_say_nothing(loss):
    assert replay(RegimePolicy(hysteresis=1), [reading(loss)])[0].factor == 1.0


def test_compat_decides_as_the_original_did():
    policy = RegimePolicy(compat="0.1.0")
    rows = [reading(*row[:3]) for row in TOPOADAMW_0_1_0]
    decided = [decision.factor for decision in replay(policy, rows)]
    assert decided == [row[3] for row in TOPOADAMW_0_1_0]
    assert len(set(decided)) == 5


def test_compat_decides_as_the_installed_original_does():
    original = pytest.importorskip("topoadamw")
    model = torch.nn.Linear(2, 2)
    base = torch.optim.AdamW(model.parameters(), lr=1.0)
    optimizer = original.TopoAdam(base, model, max_lr_ratio=1e9, min_lr_ratio=0.0)
    state, policy = RegimePolicy(compat="0.1.0").start(), RegimePolicy(compat="0.1.0")
    for index in range(200):
        drawn = torch.rand(3, generator=generator("compat", index)).tolist()
        seen = reading(4 * drawn[0], drawn[1], drawn[2])
        features = {"center_loss": seen.loss, "sharpness": drawn[1], "variance": drawn[2]}
        optimizer._extract_geometric_features = lambda _, f=features: f
        optimizer.probe.probe = lambda *_: None
        base.param_groups[0]["lr"] = 1.0
        optimizer._adjust_learning_rate(torch.zeros(1), torch.zeros(1), None)
        state, decision = policy.decide(state, seen)
        assert decision.factor == base.param_groups[0]["lr"]


@given(st.lists(st.tuples(*(st.floats(0, 5),) * 3), max_size=20))
def test_decisions_depend_on_the_readings_alone(rows):
    readings = [reading(*row) for row in rows]
    for policy in (RegimePolicy(), RegimePolicy(compat="0.1.0")):
        assert replay(policy, readings) == replay(policy, readings)


def test_bad_settings_are_named():
    with pytest.raises(UnknownNameError, match="compat"):
        RegimePolicy(compat="0.2.0")
    with pytest.raises(ArgumentError, match="hysteresis"):
        RegimePolicy(hysteresis=0)
    with pytest.raises(ArgumentError, match="share"):
        EdgePolicy(share=0)
    with pytest.raises(ArgumentError, match="lower_bound"):
        MoMoPolicy(lower_bound=math.nan)
    with pytest.raises(ArgumentError, match="every"):
        NoisePolicy(every=1)
    with pytest.raises(UnknownNameError, match="shape"):
        PlateauCooldown(shape="squareroot")


def test_decisions_are_checked():
    assert Decision(2.0).factors(3) == (2.0, 2.0, 2.0)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match="finite numbers >= 0"):
            Decision(bad).factors(1)
    with pytest.raises(ArgumentError, match="one for each of 3 groups"):
        Decision((1.0, 2.0)).factors(3)


# Edge


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_edge_is_kept(momentum):
    limit = 0.9 * 2 * (1 + momentum) / (1 - momentum)
    seen = Reading(step=1, edge=2 * limit, edge_error=0.0, momentum=momentum)
    assert replay(EdgePolicy(), [seen])[0].factor == pytest.approx(0.5)
    assert replay(EdgePolicy(), [replace(seen, edge=limit / 4)])[0].factor == 1.5
    assert replay(EdgePolicy(), [replace(seen, edge=limit / 1.2)])[0].factor == pytest.approx(
        1.2
    )
    uncertain = replace(seen, edge=limit, edge_error=limit)
    assert replay(EdgePolicy(), [uncertain])[0].factor == pytest.approx(0.5)
    assert replay(EdgePolicy(), [replace(seen, edge=math.nan)])[0].factor == 1.0
    assert replay(EdgePolicy(), [replace(seen, edge=-1.0)])[0].factor == 1.5


# MoMo


def loss_of(w, target):
    return 0.5 * ((w - target) ** 2 * torch.arange(1.0, 6.0, dtype=torch.float64)).sum()


def trained(optimizer, controller, weights, steps=60):
    path = []
    for step in range(steps):
        noise = torch.randn(5, generator=generator("momo", step), dtype=torch.float64)
        optimizer.zero_grad()
        loss = loss_of(torch.cat(weights), 1.0 + 0.1 * noise)
        loss.backward()
        controller.observe(loss)
        optimizer.step()
        controller.step()
        path.append(torch.cat([w.detach() for w in weights]))
    return path


def naive(method, steps=60):
    path = []
    for step in range(steps):
        noise = torch.randn(5, generator=generator("momo", step), dtype=torch.float64)
        w = method.w.clone().requires_grad_()
        loss = loss_of(w, 1.0 + 0.1 * noise)
        (grad,) = torch.autograd.grad(loss, w)
        method.step(loss.item(), grad)
        path.append(method.w)
    return path


def start():
    return torch.zeros(5, dtype=torch.float64)


def steered(make, lower=0.0, groups=1, **settings):
    weights = [
        w.clone().requires_grad_() for w in start().split(5 // groups if groups > 1 else 5)
    ]
    optimizer = make([{"params": [w]} for w in weights] if groups > 1 else weights)
    policy = MoMoPolicy(lower, **settings)
    controller = LandscapeLR(optimizer, policy, warmup=0, min_ratio=0.0)
    return trained(optimizer, controller, weights), controller


@pytest.mark.parametrize("lr", [0.05, 5.0])
@pytest.mark.parametrize("groups", [1, 5])
def test_momo_is_the_papers(lr, groups):
    path, controller = steered(
        lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, dampening=0.9), groups=groups
    )
    truth = naive(NaiveMoMo(start(), lr, 0.9))
    for ours, theirs in zip(path, truth, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert min(controller.log.column("scale")) < 1


@pytest.mark.parametrize("lr", [0.01, 3.0])
@pytest.mark.parametrize("estimate", [False, True])
def test_momo_adam_is_the_papers(lr, estimate):
    path, _ = steered(lambda p: torch.optim.Adam(p, lr=lr), estimate_bound=estimate)
    truth = naive(NaiveMoMoAdam(start(), lr, estimate=estimate))
    for ours, theirs in zip(path, truth, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=2.0, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.5),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.5, weight_decay=0.2),
    ],
)
def test_steps_end_where_the_model_meets_the_bound(make):
    weights = [start().requires_grad_()]
    optimizer = make(weights)
    controller = LandscapeLR(optimizer, MoMoPolicy(), warmup=0, min_ratio=0.0)
    trained(optimizer, controller, weights, steps=30)
    assert controller.log.column("scale").min() < 1
    assert loss_of(weights[0].detach(), 1.0) < loss_of(start(), 1.0)


@pytest.mark.parametrize("warmup", [1, 2, 7])
def test_averages_go_on_during_the_warm_up(warmup):
    weights = [start().requires_grad_()]
    optimizer = torch.optim.SGD(weights, lr=0.5, momentum=0.9, dampening=0.9)
    controller = LandscapeLR(optimizer, MoMoPolicy(), warmup=warmup, min_ratio=0.0)
    path = trained(optimizer, controller, weights, steps=20)
    truth = naive(NaiveMoMo(start(), 0.5, 0.9, warmup=warmup), steps=20)
    for ours, theirs in zip(path, truth, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(controller.log) == 20 - warmup
    assert min(controller.log.column("scale")) < 1


def test_decay_is_a_part_of_the_update():
    # One step from rest: the model is the tangent, and the update reaches the bound on it.
    w = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([w], lr=50.0, weight_decay=0.01)
    controller = LandscapeLR(optimizer, MoMoPolicy(0.5), warmup=0, min_ratio=0.0)
    loss = 0.5 * w.square().sum()
    loss.backward()
    before = w.detach().clone()
    controller.observe(loss)
    optimizer.step()
    tangent = loss.item() + float(w.grad @ (w.detach() - before))
    # Averages are of weight 1 - beta: f, d, gamma are all 0.1 of the first sample.
    assert tangent == pytest.approx(0.5)


def test_momo_survives_rates_that_plain_adam_does_not():
    ends = {}
    for steering in (False, True):
        weights = [start().requires_grad_()]
        optimizer = torch.optim.SGD(weights, lr=10.0, momentum=0.9)
        policy = MoMoPolicy() if steering else RegimePolicy()
        controller = LandscapeLR(
            optimizer, policy, warmup=0 if steering else 10**6, min_ratio=0.0
        )
        path = trained(optimizer, controller, weights)
        ends[steering] = float(loss_of(path[-1], 1.0))
    assert ends[True] < 0.5
    assert not ends[False] < 1e6


def test_momo_knows_what_it_cannot_serve():
    w = start().requires_grad_()
    for make in (
        lambda: torch.optim.SGD([w], lr=1.0, momentum=0.9, nesterov=True),
        lambda: torch.optim.AdamW([w], lr=1.0, amsgrad=True),
        lambda: torch.optim.Adagrad([w], lr=1.0),
    ):
        optimizer = make()
        controller = LandscapeLR(optimizer, MoMoPolicy(), warmup=0)
        loss_of(w, 1.0).backward()
        controller.observe(1.0)
        with pytest.warns(UserWarning, match="MoMoPolicy needs"):
            optimizer.step()
        assert controller.log.records[0].failed
    optimizer = torch.optim.SGD([w], lr=1.0)
    controller = LandscapeLR(optimizer, MoMoPolicy())
    with pytest.raises(ArgumentError, match=r"controller\.observe\(loss\)"):
        optimizer.step()


def test_momo_needs_one_momentum():
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [w], "momentum": m} for w, m in zip(weights, (0.9, 0.5), strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    with pytest.raises(ArgumentError, match="one momentum"):
        model_signals(optimizer, 1.0)


def test_momo_waits_where_a_loss_is_not_finite():
    state, decision = MoMoPolicy().decide(
        MoMoPolicy().start(),
        Reading(step=0, model={"loss": math.nan, "beta": 0.9, "corrected": 1.0}),
    )
    assert decision.factor == 1.0
    assert state == MoMoPolicy().start()


# Noise


def test_noisy_groups_go_slower():
    still, moving = (0.0, 1.0), (3.0, 1.0)
    first, second = (Reading(step=s, noise=(still, moving)) for s in (1, 2))
    assert replay(NoisePolicy(smoothing=0.0), [first])[0].factors(2) == pytest.approx(
        (1.0, 4**-0.25)
    )
    both = replay(
        NoisePolicy(smoothing=0.5), [replace(first, noise=(still, (15.0, 1.0))), second]
    )
    assert both[1].factors(2)[1] == pytest.approx((1 / math.sqrt(10)) ** 0.5)
    unknown = replay(NoisePolicy(), [Reading(step=1, noise=((math.nan, math.nan), (1.0, 1.0)))])
    assert unknown[0].factors(2)[0] == 1.0
    assert replay(NoisePolicy(), [Reading(step=1)])[0].factor == 1.0


def test_one_inner_product_below_zero_is_forgotten_like_any_other_reading():
    usual = Reading(step=1, noise=((1.0, 1.0), (2.0, 1.0)))
    odd = replace(usual, noise=((1.0, 1.0), (2.0, -1.0)))
    settled = replay(NoisePolicy(), [usual] * 30)[-1].factors(2)[1]
    after = replay(NoisePolicy(), [usual] * 10 + [odd] + [usual] * 30)
    assert after[-1].factors(2)[1] == pytest.approx(settled, rel=0.02)
    assert after[10].factors(2)[1] > 0.9 * settled


def test_noise_is_the_ratio_of_averages_and_not_the_average_of_ratios():
    # Both estimates are unbiased; in 40 dimensions with noise 4 many inner products are < 0.
    drawn = torch.randn(400, 2, 40, generator=generator("noise"), dtype=torch.float64)
    mean = torch.full((40,), 40**-0.5, dtype=torch.float64)
    gradients = mean + 2 * 40**-0.5 * drawn
    pairs = [
        (0.5 * (a - b).square().sum().item(), (a @ b).item()) for a, b in gradients.unbind(0)
    ]
    readings = [Reading(step=i, noise=((0.0, 1.0), pair)) for i, pair in enumerate(pairs)]
    late = [d.factors(2)[1] for d in replay(NoisePolicy(smoothing=0.98), readings)[200:]]
    assert any(signal <= 0 for _, signal in pairs)
    assert np.mean(late) == pytest.approx(5**-0.25, rel=0.05)


def test_groups_without_any_gradient_keep_their_rate():
    silent = Reading(step=1, noise=((0.0, 0.0), (1.0, 1.0)))
    assert replay(NoisePolicy(), [silent])[0].factors(2)[0] == 1.0


def test_the_layer_with_injected_noise_is_slowed():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(layer_groups(model), lr=0.01)
    controller = LandscapeLR(optimizer, NoisePolicy(every=5), warmup=0, min_ratio=0.0)
    x = torch.randn(64, 8, generator=generator(0))
    y = x.sum(1, keepdim=True)
    for step in range(40):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        kick = torch.randn(8, 8, generator=generator("kick", step))
        model[0].weight.grad.add_(5 * kick)
        optimizer.step()
        controller.step()
    assert controller.scales[0] < 0.6
    assert controller.scales[1] == 1.0
    assert len(controller.log) == 8


# Plateau


def falling(policy, losses, every=10):
    readings = [
        Reading(step=every * (i + 1), train_loss=x, train_error=0.001, train_count=every)
        for i, x in enumerate(losses)
    ]
    return replay(policy, readings)


def test_no_cooldown_while_the_loss_falls():
    decisions = falling(PlateauCooldown(), [1 / (1 + 0.1 * t) for t in range(200)])
    assert {d.reason for d in decisions} == {"progress"}


def test_cooldown_when_it_stops_and_its_shape():
    losses = [max(2.0 - 0.05 * t, 1.0) for t in range(100)]
    decisions = falling(PlateauCooldown(decay=0.5), losses)
    began = next(i for i, d in enumerate(decisions) if d.reason != "progress")
    assert 20 < began < 45
    scales = [d.factor for d in decisions[began:]]
    assert scales[0] == 1.0
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] == 0.0
    ended = next(i for i, s in enumerate(scales) if s == 0.0)
    assert ended == pytest.approx(0.5 * (began + 1), abs=1)


def test_progress_that_is_not_certain_does_not_count():
    losses = [2.0 - 0.001 * t for t in range(60)]
    readings = [
        Reading(step=10 * (i + 1), train_loss=x, train_error=0.5, train_count=10)
        for i, x in enumerate(losses)
    ]
    assert replay(PlateauCooldown(), readings)[-1].reason != "progress"


def test_windows_without_a_loss_tell_nothing():
    def seen(step, loss):
        return Reading(step=step, train_loss=loss, train_error=0.0, train_count=1)

    policy = PlateauCooldown()
    early = [seen(10 * (i + 1), 1.0) for i in range(policy.min_decisions)]
    lost = [seen(10_000, math.nan), Reading(step=20_000)]
    decisions = replay(policy, early[:-1] + lost)
    assert {d.reason for d in decisions} == {"progress"}
    assert replay(policy, [*early[:-1], *lost, seen(30_000, 1.0)])[-1].reason == "progress"


def test_memory_stays_bounded():
    policy = PlateauCooldown()
    state = policy.start()
    for i in range(1000):
        seen = Reading(step=i + 1, train_loss=0.99**i, train_error=0.0, train_count=1)
        state, _ = policy.decide(state, seen)
    assert len(state["windows"]) <= 129
    assert sum(w[3] for w in state["windows"]) == 1000
