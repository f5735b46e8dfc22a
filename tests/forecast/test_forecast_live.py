import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas import forecast
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, LiveForecast, schedules
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()
SCHEDULES = small_schedules()


def feed(live, curve, until):
    for step, loss in zip(curve.step, curve.loss, strict=True):
        if step <= until:
            live.update(int(step), float(loss))
    return live.read()


def test_with_earlier_runs_the_end_of_a_decaying_run_is_known_early():
    history = [
        made_up(LAW, TRUTH, SCHEDULES[n], n, 1e-3) for n in ("constant", "cosine", "two-step")
    ]
    truth = made_up(LAW, TRUTH, SCHEDULES["linear"], "linear", 1e-3, seed=9)
    live = LiveForecast(SCHEDULES["linear"], history=history)
    early = feed(live, truth, 900)
    assert (early.step, early.steps, early.reason) == (900, 2000, "")
    assert early.lower <= truth.loss[-1] <= early.upper
    assert early.upper - early.lower < 0.05 * truth.loss[-1]


def test_alone_a_run_at_a_constant_rate_knows_its_end():
    truth = made_up(forecast.PowerLaw(), [2.6, 0.9, 0.5], SCHEDULES["constant"], "c", 1e-3)
    live = LiveForecast(SCHEDULES["constant"])
    assert feed(live, truth, 200).reason.startswith("fewer than 20")
    middle = feed(live, truth.select(truth.step > 200), 1500)
    assert middle.lower <= truth.loss[-1] <= middle.upper


def test_alone_a_decay_to_come_is_said_to_be_unknown():
    truth = made_up(LAW, TRUTH, SCHEDULES["linear"], "linear")
    reading = feed(LiveForecast(SCHEDULES["linear"]), truth, 1200)
    assert np.isfinite(reading.loss)
    assert np.isnan(reading.lower)
    assert "what the decay will gain cannot be known" in reading.reason


def test_steps_go_forward():
    live = LiveForecast(np.ones(100))
    live.update(10, 3.0)
    live.update(10, 2.9)
    with pytest.raises(ArgumentError, match="must lie between the last one"):
        live.update(9, 3.0)
    with pytest.raises(ArgumentError, match="end of the schedule"):
        live.update(101, 3.0)
    with pytest.raises(ArgumentError, match="`level`"):
        LiveForecast(np.ones(100), level=2)


@given(st.integers(0, 2**32 - 1), st.integers(60, 180))
def test_a_spike_is_found_where_it_is_and_noise_is_none(seed, at):
    rng = np.random.default_rng(seed)
    loss = (2 + 3 / np.sqrt(np.arange(10, 210))) * np.exp(0.01 * rng.standard_normal(200))
    assert not forecast.spikes(np.arange(200), loss).spikes
    loss[at] *= 1.3
    found = forecast.spikes(np.arange(200), loss)
    assert [spike.step for spike in found] == [at]


def test_losses_that_are_no_numbers_are_spikes():
    loss = np.linspace(3, 2, 100)
    loss[40] = np.nan
    live = LiveForecast(np.ones(100))
    for step, value in enumerate(loss, 1):
        live.update(step, value)
    reading = live.read()
    assert [spike.step for spike in reading.spikes] == [41]
    assert np.isfinite(reading.loss)


def test_a_bend_is_found_and_a_straight_line_has_none():
    step = np.unique(np.geomspace(100, 100_000, 300).astype(int))
    noise = np.exp(2e-3 * np.random.default_rng(0).standard_normal(step.size))
    law = forecast.BrokenPowerLaw()
    empty = Curve(step, np.linspace(2, 1, step.size))
    bent = Curve(step, law.predict([4.0, 6000.0, 0.2, 0.02, 0.3], empty.inputs) * noise)
    found = forecast.deceleration(bent)
    assert found.step == pytest.approx(6000, rel=0.1)
    assert (found.before, found.after) == pytest.approx((0.2, 0.02), rel=0.15)
    straight = Curve(step, 10 * step**-0.2 * noise)
    assert forecast.deceleration(straight) is None
    assert forecast.deceleration(bent.until(2000)) is None


def test_smoothing_is_a_running_mean_that_grows():
    loss = np.random.default_rng(0).uniform(1, 2, 50)
    expected = [loss[int(j / 1.2) : j + 1].mean() for j in range(50)]
    np.testing.assert_allclose(forecast.smoothed(loss), expected)


def test_a_schedule_under_way_counts():
    rates = schedules.constant(100, 1.0, 10)
    live = LiveForecast(rates)
    assert live.curve() is None
    assert live.read().step == 0
