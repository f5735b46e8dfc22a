"""Whether rates are those of a run: stages and rises count, short warm-ups do not."""

from dataclasses import replace

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, schedules
from lossatlas.forecast.same_schedule import ALIKE, SHORT, distinct_schedules, first_difference
from lossatlas.forecast.unseen import unseen_schedule

UPDATES = 2000
PEAK = 1e-3
HELD = np.full(UPDATES, PEAK)
STAGES = np.where(np.arange(UPDATES) < 1000, 5e-4, PEAK)
RAMP = np.linspace(1e-5, PEAK, UPDATES)
LATE_RISE = np.where(np.arange(UPDATES) < 1000, schedules.constant(UPDATES, 2e-4, 50), PEAK)


def run(rates, every=10, seed=0, warmup=None, logged=False):
    steps = np.arange(every, rates.size + 1, every)
    loss = 2 + 3 * (np.cumsum(rates)[steps - 1] + 1e-2) ** -0.3
    loss *= np.exp(3e-3 * np.random.default_rng(seed).normal(size=steps.size))
    given = rates[steps - 1] if logged else rates
    return Curve(steps, loss, given, name=f"run {seed}", warmup=warmup)


def slow_difference(curve, own, rates):
    """The twin: every update by itself."""
    peak, size = max(curve.lr), len(curve.lr)
    gap = int(np.median(np.diff(curve.step)))
    top = schedules.warmup_length(own)
    shown = schedules.warmup_length(curve.lr[: int(SHORT * size) + 2])
    short = shown + 1 if 0 < shown <= int(SHORT * size) else 0
    if curve.warmup and curve.warmup <= int(SHORT * size):
        short = max(short, curve.warmup)
    for t, rate in enumerate(rates):
        low = high = own[t]
        if t <= top and 0 < top < len(own) - 1:
            low, high = own[t - gap] if t >= gap else 0.0, own[min(t + gap, top)]
        if t >= short and not low - ALIKE * peak <= rate <= high + ALIKE * peak:
            return t + 1
    return 0


OTHERS = {
    "held": HELD, "low": np.full(UPDATES, 1e-5), "stages": STAGES, "ramp": RAMP,
    "late rise": LATE_RISE, "cosine": schedules.cosine(UPDATES, PEAK, warmup=60),
    "long warm-up": schedules.cosine(UPDATES, PEAK, warmup=400),
    "wave": PEAK * (0.55 + 0.45 * np.sin(np.arange(UPDATES) / 100)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("every", [1, 10, 50])
def test_the_first_difference_is_that_of_every_update_by_itself(name, every):
    curve = run(OTHERS[name], every)
    for other, rates in OTHERS.items():
        first = first_difference(curve, curve.lr, rates)
        assert first == slow_difference(curve, curve.lr, rates)
        assert (first == 0) == (other == name)


@pytest.mark.parametrize("own", ["stages", "ramp", "late rise", "long warm-up"])
def test_every_other_schedule_is_unseen_by_a_run_whose_rate_rises_late(own):
    curve = run(OTHERS[own])
    assert not unseen_schedule([curve], OTHERS[own])
    assert not unseen_schedule([curve], OTHERS[own][:1500])
    for name, rates in OTHERS.items():
        assert bool(unseen_schedule([curve], rates)) == (name != own)


def test_a_law_of_runs_in_stages_guesses_what_one_stage_does():
    fit = forecast.fit(forecast.MultiPowerLaw(), [run(STAGES, seed=i) for i in range(3)])
    assert not fit.predict(STAGES).guess
    assert fit.predict(HELD).guess
    assert np.isnan(fit.predict(HELD).upper[-1])
    # The forecast ahead keeps the stages.
    assert not fit.ahead.guess
    np.testing.assert_allclose(fit.ahead.lr[:UPDATES], STAGES)


def test_a_simple_forecast_of_a_run_in_stages_refuses_another_first_stage():
    fit = forecast.fit(forecast.LastLevel(), run(STAGES))
    assert np.isfinite(fit.predict(np.append(STAGES, HELD[:500])).upper[-1])
    with pytest.raises(ArgumentError, match="differs from update 1 on"):
        fit.predict(HELD)


@pytest.mark.parametrize("warmup", [20, 60, 100])
def test_a_short_warm_up_does_not_decide_and_a_long_one_does(warmup):
    own = schedules.cosine(UPDATES, PEAK, warmup=warmup)
    for curve in (run(own), run(own, warmup=warmup), run(own, warmup=warmup, logged=True)):
        flat = np.where(np.arange(UPDATES) < warmup, PEAK, own)
        assert not unseen_schedule([curve], own)
        assert not unseen_schedule([curve], flat)
        assert unseen_schedule([curve], schedules.cosine(UPDATES, PEAK, warmup=400))
    declared = run(HELD, warmup=warmup)
    assert not unseen_schedule([declared], schedules.constant(UPDATES, PEAK, warmup))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("every", [10, 50])
def test_a_long_warm_up_is_its_own_however_seldom_it_was_logged(declared, every):
    own = schedules.cosine(UPDATES, PEAK, warmup=230)
    curve = run(own, every, warmup=230 if declared else None, logged=True)
    assert not unseen_schedule([curve], own)
    assert unseen_schedule([curve], np.where(np.arange(UPDATES) < 230, PEAK, own))
    assert unseen_schedule([curve], schedules.cosine(UPDATES, PEAK, warmup=400))


@pytest.mark.parametrize("share", [0.002, 0.015, 0.025, 0.1])
def test_runs_and_forecasts_have_one_measure_of_one_schedule(share):
    first, second = run(HELD), run(HELD * (1 + share))
    is_one = distinct_schedules([first, second]) == 1
    assert is_one == (not unseen_schedule([first], second.lr)) == (share < ALIKE)
    assert distinct_schedules([run(STAGES), run(HELD)]) == 2
    assert distinct_schedules([first.without_rates()]) == 0


def test_only_warnings_shown_elsewhere_are_left_out_of_the_sentences():
    fit = forecast.fit(forecast.MultiPowerLaw(), run(HELD), prior=False)
    said = " ".join(fit.sentences())
    assert any("curves do not determine" in line for line in fit.warnings)
    assert "ended at the" not in said
    assert "all curves follow one schedule" not in said
    more = "curve 'the curves do not determine': 2 losses far off the neighbors left out"
    assert f"{more}." in [
        line.replace("Curve '", "curve '")
        for line in replace(fit, warnings=(*fit.warnings, more)).sentences()
    ]
