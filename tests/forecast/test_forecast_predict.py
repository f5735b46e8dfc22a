import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas import forecast
from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.forecast import best_schedule, schedules
from lossatlas.forecast.validation import CALIBRATION, ErrorModel, LeftOut, error_model
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()
SCHEDULES = small_schedules()


@pytest.fixture(scope="module")
def fitted():
    names = ("constant", "cosine", "two-step")
    return forecast.fit(
        LAW, [made_up(LAW, TRUTH, SCHEDULES[n], n, 1e-3, i) for i, n in enumerate(names)]
    )


def test_unseen_schedules_lie_in_their_intervals(fitted):
    for name in ("linear", "long"):
        truth = made_up(LAW, TRUTH, SCHEDULES[name], name)
        told = fitted.predict(truth)
        assert (told.lower[-1] < truth.loss[-1]) & (truth.loss[-1] < told.upper[-1])
        assert told.final == pytest.approx(fitted.predict(SCHEDULES[name]).final)


def test_a_forecast_of_a_schedule_runs_to_its_end(fitted):
    told = fitted.predict(SCHEDULES["linear"])
    assert told.step[-1] == 2000
    assert told.step[0] > schedules.warmup_length(SCHEDULES["linear"])
    assert (np.diff(told.loss[:20]) < 0).all()
    one = fitted.predict(SCHEDULES["linear"], steps=1500)
    assert one.step.tolist() == [1500]


@given(st.floats(0.1, 0.95), st.floats(0.0, 0.04), st.floats(1.0, 20.0), st.floats(0.0, 50.0))
def test_intervals_grow_with_level_horizon_and_leverage(level, more, horizon, leverage):
    model = ErrorModel(0.003, 4, 0.002, 0.003)
    width = model.half_width(level, horizon, leverage)
    assert width >= 0.003 * 0.1
    assert model.half_width(level + more, horizon, leverage) >= width
    assert model.half_width(level, 2 * horizon, leverage) > width
    assert model.half_width(level, horizon, leverage + 1) > width


def test_intervals_come_from_the_left_out_errors():
    rows = tuple(
        LeftOut(str(i), str(i), 10, 1.0, e, 0.0, 0.0, leverage=3.0)
        for i, e in enumerate([1, -1, 1])
    )
    model = error_model(rows, ())
    # t with three degrees of freedom; errors of leverage 3 are twice those of leverage 0.
    expected = CALIBRATION * 2.3534 / 2
    assert model.half_width(0.9, 1.0, 0.0) == pytest.approx(expected, rel=1e-4)
    assert model.half_width(0.9, 1.0, 3.0) == pytest.approx(2 * expected, rel=1e-4)
    assert "at least 3" in error_model(rows[:2], ()).reason
    assert np.isnan(error_model(rows[:2], ()).half_width(0.9, 1.0, 0.0))


def test_what_the_curves_do_not_show_has_no_interval():
    curves = [made_up(LAW, TRUTH, SCHEDULES["constant"], f"{i}", 1e-3, i) for i in range(3)]
    lone = forecast.fit(LAW, curves)
    assert np.isfinite(lone.predict(SCHEDULES["constant"]).half_width)
    told = lone.predict(SCHEDULES["linear"])
    assert np.isnan(told.half_width)
    assert "depends on B, which no fitted curve shows" in told.reason


def test_what_the_curves_hardly_show_widens_the_interval():
    rates = SCHEDULES["constant"].copy()
    rates[1900:] *= 0.9
    hint = made_up(LAW, TRUTH, rates, "hint", 1e-3, 5)
    curves = [made_up(LAW, TRUTH, SCHEDULES["constant"], f"{i}", 1e-3, i) for i in range(3)]
    found = forecast.fit(LAW, [*curves, hint])
    stay, decay = (found.predict(SCHEDULES[n]).half_width for n in ("constant", "linear"))
    assert decay > 3 * stay


@pytest.mark.parametrize("at", [30, -1, [10, 11, 12]])
def test_a_spike_leaves_the_interval_as_it_is(fitted, at):
    curves = list(fitted.curves)
    loss = curves[0].loss.copy()
    loss[at] *= 2.5
    curves[0] = forecast.Curve(curves[0].step, loss, curves[0].lr, name="constant")
    spiked = forecast.fit(LAW, curves)
    assert spiked.predict(SCHEDULES["linear"]).half_width == pytest.approx(
        fitted.predict(SCHEDULES["linear"]).half_width, rel=0.1
    )
    count = np.size(at)
    assert spiked.left_out[0].spikes == spiked.scores[0].spikes == count
    assert any(re.search(rf": {count} loss(es)? far off", line) for line in spiked.warnings)
    assert not any("far off the neighbors" in line for line in fitted.warnings)


def test_updates_and_rates_are_not_mixed():
    step = np.arange(50, 5000, 50)
    bare = forecast.Curve(step, 2 + 20 * step**-0.8)
    rated = forecast.Curve(step, 2 + 20 * step**-0.8, 3e-3)
    law, rates = forecast.PowerLaw(), schedules.constant(5000, 3e-3)
    counted, summed = (forecast.fit(law, curve, check=False) for curve in (bare, rated))
    assert counted.predict(steps=[5000]).loss[-1] == pytest.approx(2 + 20 * 5000**-0.8)
    assert summed.predict(rates).loss[-1] == pytest.approx(2 + 20 * 5000**-0.8)
    with pytest.raises(ArgumentError, match="`schedule` must not give rates: PowerLaw was"):
        counted.predict(rates)
    with pytest.raises(ArgumentError, match="`schedule` must give rates: PowerLaw was"):
        summed.predict(steps=[5000])
    with pytest.raises(ArgumentError, match="must all have rates or none"):
        forecast.fit(law, [bare, rated])
    with pytest.raises(ArgumentError, match="must not give rates"):
        forecast.LiveForecast(rates, history=[bare], law=law)


def test_leaving_the_data_is_warned_of(fitted):
    far = fitted.predict(schedules.constant(5000, 1e-3, 100))
    assert any("2.5 times the longest fitted" in line for line in far.warnings)
    rising = fitted.predict(schedules.wsd_s(2000, 1e-3, [1000], warmup=100))
    assert any("rises after its warm-up" in line for line in rising.warnings)
    loud = fitted.predict(schedules.constant(2000, 3e-3, 100))
    assert any("peak rate 0.003 is not among" in line for line in loud.warnings)
    deep = fitted.predict(schedules.wsd(2000, 1e-3, 0.2, warmup=100))
    assert any(
        "falls to 0 % of its peak, lower than in every fitted run (lowest: 10 %)" in w
        for w in deep.warnings
    )


def test_bad_questions_are_named(fitted):
    with pytest.raises(ArgumentError, match="100 times"):
        fitted.predict(schedules.constant(300_000, 1e-3))
    with pytest.raises(ArgumentError, match="`level` must lie between 0 and 1"):
        fitted.predict(SCHEDULES["linear"], level=90)
    with pytest.raises(ArgumentError, match="`schedule` must be a curve or the rates"):
        fitted.predict()
    with pytest.raises(DataError, match="`lr`"):
        fitted.predict(np.array([1.0, float("nan")]))
    with pytest.raises(ArgumentError, match="2000 rates but the last step is 2500"):
        fitted.predict(SCHEDULES["linear"], steps=[2500])
    with pytest.raises(ArgumentError, match="`steps` must be increasing"):
        fitted.predict(SCHEDULES["linear"], steps=[500, 400])
    with pytest.raises(DataError, match="`lr` is missing"):
        fitted.predict(steps=[100])


def test_a_schedule_that_has_not_begun_is_named(fitted):
    asleep = np.concatenate([np.zeros(500), np.full(1000, 1e-3)])
    with pytest.raises(ArgumentError, match="is 0 up to step 400"):
        fitted.predict(asleep, steps=[300, 400, 1500])
    assert fitted.predict(asleep).step[0] > 500


def test_a_law_outside_its_range_says_so():
    law = forecast.AnnealingLaw(0.999)
    steep = forecast.Fit.from_parameters(law, {"L0": 1.0, "A": 1.0, "alpha": 0.5, "C": 50.0})
    told = steep.predict(schedules.wsd(2000, 1e-3, 0.5))
    assert told.loss[-1] < 0
    assert "losses <= 0" in told.warnings[0]
    assert "which no loss can be" in told.sentences()[0]
    assert "no forecast" in told.sentences()[0]
    assert "nan" not in " ".join(told.sentences())
    assert np.isnan(told.upper).all()


def test_what_if_knows_the_future_of_a_made_up_run(fitted):
    lucky = made_up(LAW, TRUTH, SCHEDULES["linear"], "linear").until(1300)
    lucky = forecast.Curve(lucky.step, 0.99 * lucky.loss, lucky.lr)
    found = fitted.what_if(lucky, [1400, 1500], decay=600, shape="linear", min_ratio=0.05)
    now, later = found.decays
    assert found.offset == pytest.approx(np.log(0.99), abs=2e-3)
    assert (now.decay_at, now.steps, later.steps) == (1400, 2000, 2100)
    truth = 0.99 * made_up(LAW, TRUTH, now.lr, "end").loss[-1]
    assert now.lower < truth < now.upper
    assert now.loss == pytest.approx(truth, rel=3e-3)
    assert now.gain > 0
    np.testing.assert_allclose(now.lr[:1300], lucky.lr)


def test_what_if_asks_of_the_future_only(fitted):
    run = made_up(LAW, TRUTH, SCHEDULES["constant"], "run")
    with pytest.raises(ArgumentError, match="must not lie before the last step"):
        fitted.what_if(run, 1000)
    with pytest.raises(ArgumentError, match="at least one step"):
        fitted.what_if(run, [])
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        fitted.what_if(run, 2000, shape="cosin")


def test_the_free_optimum_is_never_worse_than_a_shape(fitted):
    plan = fitted.optimize_schedule(2000, 1e-3, warmup=100)
    losses = [row.loss for row in plan.table]
    assert losses == sorted(losses)
    assert plan.free_loss == losses[0]
    assert plan.wsd_loss < min(
        row.loss for row in plan.table if row.name.startswith(("cosine to", "constant"))
    )
    assert plan.free.size == plan.wsd.size == 2000
    assert schedules.is_monotone(plan.free)
    again = schedules.wsd(2000, 1e-3, plan.wsd_decay, plan.wsd_shape, warmup=100)
    np.testing.assert_allclose(plan.wsd, again)
    assert "indistinguishable" in plan.verdict
    assert plan.table[0].distinguishable is False
    assert plan.table[-1].distinguishable is True


def test_a_law_without_a_memory_falls_at_once_and_says_so():
    law = forecast.LinearLRLaw()
    known = forecast.Fit.from_parameters(law, {"L0": 2.6, "A": 0.9, "alpha": 0.5, "B": 80.0})
    plan = known.optimize_schedule(2000, 1e-3)
    assert plan.table[0].distinguishable is None
    assert np.isnan(plan.error)
    assert "not known" in plan.verdict
    assert plan.wsd_decay < 100


def test_no_schedule_is_chosen_by_a_loss_that_no_loss_can_be():
    law = forecast.LinearLRLaw()
    steep = forecast.Fit.from_parameters(law, {"L0": 0.1, "A": 0.1, "alpha": 0.5, "B": 800.0})
    with pytest.raises(DataError, match="which no loss can be: it does not hold there"):
        steep.optimize_schedule(2000, 1e-3)


def test_a_free_search_that_found_nothing_is_not_listed(fitted, monkeypatch):
    def constant(law, values, start, warmup, stairs):
        return np.full(start.size, start.max())

    monkeypatch.setattr(best_schedule, "_free", constant)
    plan = fitted.optimize_schedule(2000, 1e-3)
    assert plan.free_loss == plan.wsd_loss == plan.table[0].loss
    assert not any(row.name.startswith("free") for row in plan.table)
    assert [each.name.partition(",")[0] for each in plan.estimates()] == ["final loss"]
    blind = replace(plan, error=float("nan"))
    assert "behind the free optimum" not in blind.verdict
    assert "this one has the lowest expected loss" in blind.verdict


def test_two_searches_that_differ_by_rounding_are_both_the_best():
    row = best_schedule.ScheduleRow("free, in stairs", 3, 0.1079, 2.8e-17, False)
    assert row.verdict == "the best"
    assert replace(row, behind=2e-6).verdict == "+2.0e-06, indistinguishable"


def test_a_fit_that_failed_its_checks_ranks_schedules_only_by_force():
    step = np.arange(5, 301, 5)
    rates = schedules.cosine(600, 3e-3)[:300]
    run = forecast.Curve(step, 0.5 + 2 * np.exp(-step / 60), rates)
    failed = forecast.fit(LAW, run)
    assert failed.distrust.startswith("do not use this forecast")
    with pytest.raises(ArgumentError, match=r"failed its checks .* train the same model twice"):
        failed.optimize_schedule(600, 3e-3)
    plan = failed.optimize_schedule(600, 3e-3, force=True)
    assert plan.sentences()[0].startswith("Do not use this ranking: ")
    assert plan.to_dict()["distrust"] == plan.distrust
    asked = failed.what_if(run, 400)
    assert asked.sentences()[0].startswith("Do not use this forecast: ")


def test_one_schedule_ranks_no_others_without_a_word():
    rates = schedules.cosine(1000, 1e-3)
    step = np.arange(20, 1001, 20)
    loss = 2 + 0.05 * np.cumsum(rates)[step - 1] ** -0.5
    fit = forecast.fit(LAW, forecast.Curve(step, loss, rates))
    plan = fit.optimize_schedule(1000, 1e-3)
    assert plan.sentences()[0].startswith("This ranking is a guess: ")
    assert "train the same model twice more: (1) " in " ".join(plan.sentences())


@pytest.mark.parametrize("law", [LAW, forecast.LastLevel()])
def test_runs_that_would_tell_are_as_long_as_was_asked(law):
    step, rates = np.arange(1, 401), schedules.cosine(400, 1e-3)
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=400))
    fit = forecast.fit(
        law, forecast.Curve(step, (0.05 + 2 * np.exp(-step / 15)) * noise, rates)
    )
    with pytest.raises(ArgumentError) as refused:
        fit.optimize_schedule(6000, 5e-4, warmup=100)
    said = str(refused.value)
    assert "0.0005 held for 4,720 updates, then linear to 0 over 1,180 updates" in said
    assert "cosine to 0 over 5,900 updates" in said
    assert "schedule forecast --steps 6000 --peak 0.0005 --warmup 100`" in said


def test_runs_that_would_tell_a_log_without_rates_are_as_long_as_was_asked():
    fit = forecast.fit(
        forecast.PowerLaw(), forecast.Curve(np.arange(1, 60), 1 / np.arange(1, 60))
    )
    with pytest.raises(
        ArgumentError, match=r"3 times more: \(1\) .*held for 6,000.*steps 6000"
    ):
        fit.optimize_schedule(6000, 5e-4)


def test_only_laws_of_the_rate_choose_schedules(fitted):
    flat = forecast.Fit.from_parameters(
        forecast.PowerLaw(), {"L0": 2.0, "A": 1.0, "alpha": 0.5}
    )
    with pytest.raises(ArgumentError, match="must depend on the rate"):
        flat.optimize_schedule(100, 1.0)
    with pytest.raises(ArgumentError, match="`peak`"):
        fitted.optimize_schedule(100, -1.0)
    with pytest.raises(ArgumentError, match="A is missing"):
        forecast.Fit.from_parameters(forecast.PowerLaw(), {"L0": 2.0})
