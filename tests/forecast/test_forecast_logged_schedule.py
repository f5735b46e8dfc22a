"""Which schedule logged rates follow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.forecast import Curve, schedules
from lossatlas.forecast.logged_schedule import ends_in_warmup, logged_schedule

PEAK = 1e-3


def logged(rates, every, first=None, **options):
    step = np.arange(first or every, len(rates) + 1, every)
    return Curve(step, 1 / step, rates[step - 1], **options)


def rebuilt(plan):
    if plan.shape == "constant":
        return schedules.constant(plan.steps, plan.peak, plan.warmup)
    return schedules.wsd(
        plan.steps, plan.peak, float(plan.decay), plan.shape,
        min_ratio=plan.min_ratio, warmup=plan.warmup,
    )  # fmt: skip


@given(
    shape=st.sampled_from(["constant", "linear", "cosine", "sqrt", "power", "square"]),
    steps=st.integers(400, 4000),
    warmup=st.sampled_from([0, 20, 57, 100]),
    every=st.sampled_from([1, 5, 10]),
    min_ratio=st.sampled_from([0.0, 0.1]),
)
def test_a_schedule_is_found_again(shape, steps, warmup, every, min_ratio):
    steps -= steps % every
    decay = 1.0 if shape in schedules.WHOLE_RUN else 0.3
    if shape == "constant":
        rates = schedules.constant(steps, PEAK, warmup)
    else:
        rates = schedules.wsd(steps, PEAK, decay, shape, min_ratio=min_ratio, warmup=warmup)
    found = logged_schedule(logged(rates, every), warmup)
    assert found.shape == shape
    assert found.steps == steps
    assert found.peak == pytest.approx(PEAK, rel=1e-3)
    assert np.abs(rebuilt(found) - rates).max() < 0.01 * PEAK


@pytest.mark.parametrize("shape", schedules.WHOLE_RUN)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_end_of_a_run_under_way_is_found(shape, share):
    rates = schedules.wsd(5000, PEAK, 1.0, shape, warmup=100)
    found = logged_schedule(logged(rates[: int(share * 5000)], 20))
    assert found.shape == shape
    assert not found.has_ended
    assert found.steps == pytest.approx(5000, rel=5e-3)


@pytest.mark.parametrize("digits", [17, 4])
def test_near_the_top_a_cosine_is_a_guess_that_goes_on(digits):
    rates = schedules.cosine(1000, PEAK, warmup=100)[:300]
    rates = np.array([float(f"{rate:.{digits}g}") for rate in rates])
    found = logged_schedule(logged(rates, 50))
    assert (found.shape, found.has_ended) == ("cosine", False)
    assert found.steps == pytest.approx(1000, rel=0.02)
    assert "square" in found.rivals
    later = logged_schedule(logged(schedules.cosine(1000, PEAK, warmup=100)[:600], 50))
    assert (later.steps, later.rivals) == (1000, ())


@pytest.mark.parametrize("shape", ["linear", "sqrt", "square", "power"])
def test_a_cooldown_that_ended_has_no_rivals(shape):
    found = logged_schedule(logged(schedules.wsd(1000, PEAK, 0.3, shape, warmup=100), 20))
    assert (found.shape, found.has_ended, found.rivals) == (shape, True, ())


def test_a_log_that_ends_in_the_warmup_tells_no_schedule():
    rates = schedules.cosine(1000, PEAK, warmup=400)
    for last in (100, 400):
        assert ends_in_warmup(logged(rates[:last], 50))
        assert logged_schedule(logged(rates[:last], 50)) is None
    assert not ends_in_warmup(logged(rates[:500], 50))
    assert not ends_in_warmup(logged(schedules.constant(1000, PEAK, 100), 50))
    assert not ends_in_warmup(Curve([1, 2], [2.0, 1.0]))


def test_a_warmup_between_two_logged_rates_is_found():
    for warmup in (60, 130, 149):
        rates = schedules.cosine(2000, PEAK, warmup=warmup)
        found = logged_schedule(logged(rates, 50))
        assert found.warmup == pytest.approx(warmup, abs=2)
        assert found.peak == pytest.approx(PEAK, rel=1e-3)
    before = logged_schedule(logged(schedules.cosine(2000, PEAK, warmup=100), 20, first=200))
    assert (before.shape, before.warmup) == ("cosine", pytest.approx(100, abs=3))


@pytest.mark.parametrize(
    "rates",
    [
        np.repeat([1e-3, 1e-4, 1e-5], 300),
        1e-3 * (1 + 0.5 * np.sin(np.arange(900) / 50)),
        np.random.default_rng(0).uniform(1e-4, 1e-3, 900),
    ],
)
def test_other_rates_are_of_no_usual_schedule(rates):
    assert logged_schedule(logged(rates, 10)) is None


def test_a_run_without_rates_has_no_schedule():
    assert logged_schedule(Curve([1, 2, 3], [3.0, 2.0, 1.0])) is None


def test_two_points_are_enough_for_an_answer():
    for rates in ([1e-3, 1e-3], [1e-3, 5e-4], [1e-4, 1e-3], [1e-3, 0.0]):
        found = logged_schedule(Curve([10, 20], [2.0, 1.0], rates))
        assert found is None or found.steps >= 20


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(
    ("steps", "logged", "warmup"),
    [(400, 400, 0), (400, 200, 0), (1000, 1000, 100), (90, 90, 0)],
)
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("lags", [True, False])
def test_the_numbers_are_those_that_a_user_has_set(shape, steps, logged, warmup, every, lags):
    # torch's schedulers give the first update the peak; the schedules here end at zero.
    step = np.arange(1, logged + 1)
    progress = (step - lags - warmup) / (steps - warmup)
    fall = (1 + np.cos(np.pi * progress)) / 2 if shape == "cosine" else 1 - progress
    rates = 4e-3 * np.where(step <= warmup, step / max(warmup, 1), fall)
    kept = slice(every - 1, None, every)
    found = logged_schedule(Curve(step[kept], 1 / step[kept], rates[kept]))
    assert (found.shape, found.steps, found.warmup) == (shape, steps, warmup)
    assert found.peak == pytest.approx(4e-3, rel=1e-5)
    assert found.has_ended is (logged == steps)
    assert found.rivals == ()
