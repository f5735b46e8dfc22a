import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.cooldown import SHAPE_NAMES, cooldown_factor
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.policies import RegimePolicy
from lossatlas.steering.schedules import WSD, WSDS


def optimizer(lr=2.0):
    w = torch.ones(2, 2, requires_grad=True)
    w.grad = torch.zeros_like(w)
    return torch.optim.SGD([w], lr=lr)


def rates(schedule, steps):
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_shapes_begin_at_one_and_end_at_the_end(shape):
    assert cooldown_factor(shape, 0.0, 0.1) == pytest.approx(1.0)
    assert cooldown_factor(shape, 1.0, 0.1) == pytest.approx(0.1)
    middle = [cooldown_factor(shape, i / 20, 0.1) for i in range(21)]
    assert middle == sorted(middle, reverse=True)


@given(st.floats(0, 1))
def test_shapes_are_their_formulas(s):
    assert cooldown_factor("sqrt", s) == pytest.approx(1 - s**0.5)
    assert cooldown_factor("power", s) == pytest.approx((1 - s) ** 1.5)
    assert cooldown_factor("square", s) == pytest.approx(1 - s**2)
    assert cooldown_factor("exponential", s, 0.01) == pytest.approx(0.01**s)
    assert 1 / cooldown_factor("inverse", s, 0.1) == pytest.approx(1 + 9 * s)


def test_wsd_warms_up_stays_and_cools():
    found = rates(WSD(optimizer(), 20, warmup=4, decay=5, shape="linear"), 20)
    assert found[:4] == [0.5, 1.0, 1.5, 2.0]
    assert found[4:15] == [2.0] * 11
    assert found[15:] == pytest.approx([1.6, 1.2, 0.8, 0.4, 0.0])
    share = rates(WSD(optimizer(), 20, decay=0.25, shape="linear", min_ratio=0.5), 20)
    assert share[15:] == pytest.approx([1.8, 1.6, 1.4, 1.2, 1.0])


def test_the_horizon_can_be_chosen_late():
    schedule = WSD(optimizer(), shape="linear")
    assert rates(schedule, 7) == [2.0] * 7
    schedule.cool_down(4)
    assert rates(schedule, 4) == pytest.approx([1.5, 1.0, 0.5, 0.0])
    with pytest.raises(ArgumentError, match="has begun"):
        schedule.cool_down(3)


@pytest.mark.parametrize("shape", SHAPE_NAMES)
@pytest.mark.parametrize("begin", [0, 1, 4, 9, 10, 12])
def test_a_cooldown_within_the_warm_up_goes_down_from_where_the_rate_is(shape, begin):
    schedule = WSD(optimizer(), warmup=10, shape=shape, min_ratio=0.1)
    before = rates(schedule, begin)
    schedule.cool_down(5)
    cooled = rates(schedule, 5)
    reached = 2.0 * min((begin + 1) / 10, 1.0)
    # A warm-up that has reached less than the end rate stays where it is.
    assert cooled[-1] == pytest.approx(min(0.2, reached))
    assert all(a >= b for a, b in zip([reached, *cooled], cooled, strict=False))
    assert cooled[0] > 0.19
    assert before == pytest.approx([2.0 * min((k + 1) / 10, 1.0) for k in range(begin)])


def test_wsd_s_cools_at_every_end_and_goes_on_at_the_full_rate():
    found = rates(WSDS(optimizer(), [10, 20], warmup=2, decay=0.25, shape="linear"), 24)
    assert found[:3] == [1.0, 2.0, 2.0]
    assert found[8:10] == pytest.approx([1.1, 0.2])
    assert found[10:17] == [2.0] * 7
    assert found[19] == pytest.approx(0.2)
    assert found[20:] == [2.0] * 4


@pytest.mark.parametrize(
    "make", [lambda o: WSD(o, 12, warmup=3, decay=4), lambda o: WSDS(o, [5, 12])]
)
def test_schedules_resume_and_can_be_multiplied(make):
    whole = rates(make(optimizer()), 12)
    first = make(optimizer())
    rates(first, 6)
    second = make(optimizer())
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.optimizer.param_groups[0]["params"][0].grad = torch.zeros(2, 2)
    assert rates(second, 6) == whole[6:]
    base = optimizer()
    steered = LandscapeLR(base, RegimePolicy(), scheduler=make(base))
    found = []
    for _ in range(12):
        found.append(base.param_groups[0]["lr"])
        base.step()
        steered.step()
    assert found == whole


def test_bad_settings_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'sqrt'"):
        WSD(optimizer(), 10, shape="sqr")
    with pytest.raises(ArgumentError, match="must fit into 10 steps"):
        WSD(optimizer(), 10, warmup=6, decay=5)
    with pytest.raises(ArgumentError, match="`decay`"):
        WSD(optimizer(), 10, decay=0)
    with pytest.raises(ArgumentError, match="`min_ratio` must be > 0"):
        cooldown_factor("exponential", 0.5)
    with pytest.raises(ArgumentError, match="must increase"):
        WSDS(optimizer(), [10, 10])
    with pytest.raises(ArgumentError, match="`warmup`"):
        WSDS(optimizer(), [10], warmup=-1)


@pytest.mark.parametrize("make", [WSD, lambda o, **k: WSDS(o, [5, 12], **k)])
def test_a_schedule_starts_late_only_where_one_has_been(make):
    with pytest.raises(ArgumentError, match=r"`last_epoch` must be -1 .* load the state"):
        make(optimizer(), last_epoch=3)
    used = optimizer()
    make(used)
    assert make(used, last_epoch=3).last_epoch == 4
