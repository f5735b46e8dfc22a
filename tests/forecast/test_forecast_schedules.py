import copy
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, AdamW
from torch.optim import lr_scheduler as ls

from lossatlas.cooldown import SHAPE_NAMES
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.forecast import best_schedule, from_torch, schedules
from lossatlas.steering.schedules import WSD, WSDS


@given(
    st.sampled_from(schedules.SHAPE_NAMES), st.integers(0, 20), st.integers(1, 60),
    st.floats(0.01, 1.0),
)  # fmt: skip
def test_every_cooldown_falls_from_the_peak_to_its_end(shape, warmup, decay, end):
    length = decay if decay > 1 else 0.01
    rates = schedules.wsd(100, 2.0, length, shape, min_ratio=end, warmup=warmup)
    assert rates.size == 100
    assert rates[-1] == pytest.approx(2.0 * end)
    assert rates.max() <= 2.0 + 1e-12
    assert schedules.is_monotone(rates)
    assert schedules.warmup_length(rates) == max(warmup - 1, 0) or decay >= 100 - warmup


def test_shapes_at_the_middle_of_a_cooldown():
    middle = {
        shape: schedules.wsd(
            200, 1.0, 100, shape, min_ratio=0 if shape in schedules.SHAPES else 0.01
        )[149]
        for shape in schedules.SHAPE_NAMES
    }
    expected = {
        "linear": 0.5, "cosine": 0.5, "mirror-cosine": 0.5, "square": 0.75,
        "sqrt": 1 - np.sqrt(0.5), "power": 0.5**1.5, "lowered-linear": 0.35, "exponential": 0.1,
        "inverse": 1 / 50.5,
    }  # fmt: skip
    assert middle == pytest.approx(expected)


@pytest.mark.parametrize(
    ("falls", "words"),
    [(0, "never falls"), (1, "a staircase of 1 fall:"), (3, "a staircase of 3 falls:")],
)
def test_few_falls_of_the_free_optimum_are_flagged(falls, words):
    free = np.repeat(np.arange(falls + 1.0)[::-1] + 1, 100 // (falls + 1))
    (found,) = best_schedule._warnings(free, decay=30, body=len(free))
    assert words in found


def test_wsd_s_rises_again_and_is_flagged():
    rates = schedules.wsd_s(100, 1.0, [50], 10, "linear", min_ratio=0, warmup=5)
    assert rates.size == 100
    assert rates[49] == rates[99] == 0
    assert rates[50] == 1
    assert not schedules.is_monotone(rates)


def test_a_share_of_one_is_the_whole_run_and_the_number_one_is_refused():
    whole = schedules.wsd(10, 1.0, decay=1.0, shape="linear")
    np.testing.assert_allclose(whole, np.linspace(0.9, 0.0, 10))
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    assert WSD(optimizer, 10, decay=1.0, shape="linear").share(0) == pytest.approx(0.9)
    periods = schedules.wsd_s(8, 1.0, [4], decay=1.0, shape="linear", min_ratio=0.0)
    np.testing.assert_allclose(periods, 2 * [0.75, 0.5, 0.25, 0.0])
    for refused in (
        lambda: schedules.wsd(10, 1.0, decay=1),
        lambda: schedules.wsd_s(10, 1.0, [5], decay=1),
        lambda: WSD(optimizer, 10, decay=1),
        lambda: WSDS(optimizer, [5, 10], decay=1),
    ):
        with pytest.raises(ArgumentError, match=r"write decay=1\.0"):
            refused()


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (
            schedules.wsd(200, 0.1, decay=1e-9, shape="linear"),
            "the rate 0.1 held for 199 updates, then down to 0 over 1 update",
        ),
        (schedules.wsd(200, 0.1, decay=1.0, shape="linear"), "linear from 0.1 to 0 over 200"),
        (
            schedules.constant(50, 0.2, 10),
            "a warm-up of 10 updates to 0.2, then the rate 0.2 held for 40",
        ),
        (schedules.cosine(50, 0.2, 0.1), "cosine from 0.2 to 0.02 over 50 updates"),
        (schedules.cosine(50, 0.2, 0.1, 10), "to 0.2, then cosine to 0.02 over 40 updates"),
        (schedules.wsd(50, 0.2, decay=20), "held for 30 updates, then sqrt to 0 over 20"),
        (schedules.wsd_s(20, 1.0, [10], decay=4), "rates between 0.1 and 1 over 20 updates"),
    ],
)
def test_a_schedule_is_said_in_words(rates, words):
    assert words in schedules.in_words(rates)


def test_numbers_out_of_range_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        schedules.wsd(100, 1.0, shape="lineal")
    with pytest.raises(ArgumentError, match="`min_ratio` must be > 0 for the exponential"):
        schedules.wsd(100, 1.0, shape="exponential")
    with pytest.raises(ArgumentError, match="`decay` must not be longer than the 90 steps"):
        schedules.wsd(100, 1.0, 95, warmup=10)
    with pytest.raises(ArgumentError, match="`warmup` must be shorter"):
        schedules.constant(10, 1.0, 10)
    with pytest.raises(ArgumentError, match="`peak` must be a finite number > 0"):
        schedules.cosine(10, float("nan"))
    with pytest.raises(ArgumentError, match="must increase and lie after the warm-up"):
        schedules.wsd_s(100, 1.0, [60, 50])


def build(name, optimizer):
    if name == "sequential":
        parts = [
            ls.LinearLR(optimizer, 0.1, total_iters=10),
            ls.CosineAnnealingLR(optimizer, 40),
        ]
        return ls.SequentialLR(optimizer, parts, [10])
    return {
        "lambda": lambda: ls.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 7)),
        "cosine": lambda: ls.CosineAnnealingLR(optimizer, 50),
        "onecycle": lambda: ls.OneCycleLR(optimizer, 0.3, total_steps=60),
        "exponential": lambda: ls.ExponentialLR(optimizer, 0.9),
    }[name]()


@pytest.mark.parametrize("name", ["lambda", "cosine", "onecycle", "exponential", "sequential"])
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_from_torch_foretells_the_rates_and_leaves_no_trace(name, optimizer):
    weight = torch.nn.Parameter(torch.ones(3))
    made = optimizer([weight], lr=0.1)
    scheduler = build(name, made)
    for _ in range(3):
        made.step()
        scheduler.step()
    before = copy.deepcopy((scheduler.state_dict(), made.state_dict()))
    told = from_torch(scheduler, 40)
    after = scheduler.state_dict(), made.state_dict()
    assert str(before) == str(after)
    seen = []
    for _ in range(40):
        seen.append(made.param_groups[0]["lr"])
        made.step()
        scheduler.step()
    np.testing.assert_allclose(told, seen)


def test_a_scheduler_that_needs_a_metric_is_refused():
    made = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ArgumentError, match="ReduceLROnPlateau"):
        from_torch(ls.ReduceLROnPlateau(made), 10)
    with pytest.raises(ArgumentError, match="must be a torch scheduler"):
        from_torch(object(), 10)


def scheduled(make, steps):
    made = SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = make(made)
    found = []
    for _ in range(steps):
        found.append(made.param_groups[0]["lr"])
        made.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("shape", schedules.SHAPE_NAMES)
@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.1), (7, 0.25), (5, 13), (3, 57)])
def test_schedulers_and_arrays_agree_step_by_step(shape, warmup, decay):
    words = {"warmup": warmup, "decay": decay, "shape": shape, "min_ratio": 0.05}
    seen = scheduled(lambda made: WSD(made, 60, **words), 60)
    np.testing.assert_allclose(schedules.wsd(60, 2.0, **words), seen, rtol=1e-12)


def test_the_defaults_of_schedulers_and_arrays_agree():
    np.testing.assert_allclose(schedules.wsd(50, 2.0), scheduled(lambda o: WSD(o, 50), 50))
    seen = scheduled(lambda o: WSDS(o, [20, 50], warmup=4), 50)
    np.testing.assert_allclose(schedules.wsd_s(50, 2.0, [20], warmup=4), seen, rtol=1e-12)
    both = [inspect.signature(f).parameters for f in (schedules.wsd, WSD)]
    for word in ("warmup", "decay", "shape", "min_ratio"):
        assert both[0][word].default == both[1][word].default
    assert schedules.SHAPE_NAMES == SHAPE_NAMES
