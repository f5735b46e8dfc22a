"""Simple forecasts: the answer where no law passes, with an interval that holds."""

import re
from dataclasses import replace

import numpy as np
import pytest

import lossatlas as la
from lossatlas import forecast
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, LastLevel, LocalTrend, schedules
from lossatlas.forecast.choice import SIMPLE, fit_each, fit_or_better
from lossatlas.forecast.laws import Baseline
from lossatlas.forecast.next_runs import length_of
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.recent import recent
from lossatlas.forecast.rolling import errors_of, spread_of
from lossatlas.io import Provenance

STEP = np.arange(1, 401)
RATES = schedules.cosine(400, 4e-3)


def noisy(loss, noise, seed):
    return loss * np.exp(noise * np.random.default_rng(seed).normal(size=loss.size))


def flat_early(seed=0, noise=0.1, step=STEP):
    """A small network on easy data: at its floor after a tenth of the run."""
    return noisy(0.05 + 2 * np.exp(-step / 15), noise, seed)


def test_a_level_is_the_median_of_the_last_quarter():
    curve = Curve(STEP, flat_early())
    fitted = forecast.fit(LastLevel(), curve)
    late = curve.loss[curve.step > 300]
    assert fitted.parameters["level"] == pytest.approx(np.median(late), rel=2e-3)
    assert fitted.curves[0].step.size == STEP.size


def test_a_trend_is_a_power_of_the_last_half():
    loss = np.where(STEP < 150, 9.0 + STEP / 100, 3 * STEP**-0.25)
    fitted = forecast.fit(LocalTrend(), Curve(STEP, loss))
    assert fitted.parameters["A"] == pytest.approx(3, rel=1e-6)
    assert fitted.parameters["ratio"] == pytest.approx(2**-0.25, rel=1e-6)
    assert fitted.predict(steps=[800]).loss[-1] == pytest.approx(3 * 800**-0.25, rel=1e-6)


def test_past_errors_are_those_of_fits_to_the_log_cut_off():
    curve = Curve(STEP, noisy(3 * STEP**-0.4, 0.05, 1))
    errors, _ = errors_of(LastLevel(), curve, 2.0)
    for share, error in zip((1.0, 0.85, 0.7, 0.6, 0.5), errors, strict=True):
        target = share * 400
        known = curve.select(curve.step <= target / 2)
        level = forecast.fit(LastLevel(), known, check=False).parameters["level"]
        late = (curve.step <= target) & (curve.step > 0.875 * target)
        expected = np.median(np.log(level / curve.loss[late]))
        assert error == pytest.approx(expected, abs=1e-6)


def test_a_run_that_flattens_early_is_answered_at_once():
    fitted = fit_or_better(forecast.MultiPowerLaw(), [Curve(STEP, flat_early(), RATES)])
    assert isinstance(fitted.law, Baseline)
    assert fitted.headline().startswith("This run is over, its schedule ends at update 400. ")
    assert "The expected loss at step 400 is 0.0499" in fitted.headline()
    assert "90 % interval [" in fitted.headline()
    said = " ".join(fitted.sentences())
    assert "No law is used: MultiPowerLaw " in said
    assert "The loss has been flat within its noise since about update" in said
    assert said.count("What helps: ") == 1
    told = fitted.predict(steps=[400])
    assert told.lower[-1] < 0.05 < told.upper[-1] < 0.07
    laws = [row.law for row in fitted.alternatives]
    assert "LastLevel()" in laws
    assert "MultiPowerLaw(warmup_drops=False)" in laws


def test_a_law_that_passes_is_kept():
    loss = noisy(1 + 3 * np.cumsum(RATES) ** -0.5 * 0.05, 1e-3, 0)
    fitted = fit_or_better(forecast.MultiPowerLaw(), [Curve(STEP, loss, RATES)])
    assert fitted.verdict.usable
    assert not isinstance(fitted.law, Baseline)


def test_of_several_runs_that_no_law_describes_the_longest_is_forecast():
    short = np.arange(1, 201)
    runs = [
        Curve(short, flat_early(1, step=short), name="short"),
        Curve(STEP, flat_early(2), name="long"),
    ]
    fitted = fit_or_better(forecast.PowerLaw(), runs)
    assert isinstance(fitted.law, Baseline)
    assert "This forecast is of 'long' alone" in " ".join(fitted.sentences())


def test_a_simple_forecast_is_of_one_run():
    curve = Curve(STEP, flat_early())
    with pytest.raises(ArgumentError, match="`curves` must be one run for LastLevel"):
        forecast.fit(LastLevel(), [curve, curve])


KINDS = {
    "flat": lambda u, t: u(0.5, 3) + 0 * t,
    "to a floor": lambda u, t: u(0.02, 0.5) + 2 * np.exp(-t / u(0.03, 0.3)),
    "a power": lambda u, t: u(0, 2) + u(0.05, 1) * t ** -u(0.2, 1.2),
    "a plateau, then a fall": lambda u, t: (
        0.1 + 0.6 / (1 + np.exp((t - u(0.1, 0.5)) / u(0.02, 0.1)))
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_what_they_promise(kind):
    held, draws = 0, 60
    for seed in range(draws):
        random = np.random.default_rng([seed, len(kind)])
        n, noise = int(random.choice([20, 60, 240])), float(random.choice([0.01, 0.1, 0.3]))
        truth = KINDS[kind](random.uniform, np.arange(1, 2 * n + 1) / n)
        loss = truth[:n] * np.exp(noise * random.normal(size=n))
        told = fit_each([Curve(5 * np.arange(1, n + 1), loss)], SIMPLE).predict(steps=[10 * n])
        held += told.lower[-1] <= truth[-1] <= told.upper[-1]
    # 90 % are promised; three standard errors of 60 draws are spared.
    assert held / draws >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / draws)


def test_a_sparse_log_has_an_interval_where_it_can_be_checked():
    step = np.arange(40, 601, 20)
    curve = Curve(step, noisy(2.4 + 0 * step, 0.02, 4))
    fitted = fit_or_better(forecast.PowerLaw(), [curve])
    told = fitted.predict(steps=[620, 1200, 60_000])
    assert told.lower[1] < 2.4 < told.upper[1]
    assert told.upper[0] - told.lower[0] <= told.upper[1] - told.lower[1]
    assert np.isnan(told.upper[2])
    said = " ".join(fitted.sentences())
    assert said.count("The interval comes from") + said.count("It has no interval") == 1


def test_no_interval_where_the_past_cannot_be_checked():
    curve = Curve(STEP[:12], flat_early(step=STEP[:12]))
    fitted = forecast.fit(LastLevel(), curve)
    assert "too short to check" in fitted.errors.reason
    long = forecast.fit(LastLevel(), Curve(STEP, flat_early()))
    far = long.predict(steps=[400 * 90])
    assert "too short to check a forecast so far ahead" in far.reason
    assert np.isnan(spread_of(LastLevel(), long.curves[0], 90.0)[0])


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (2 + 0 * STEP, "flat within its noise since about update"),
        (2 * STEP**-0.5, "(updates 267 to 400) the loss fell by (18"),
        (1 + (STEP / 400 - 0.3) ** 2, "the loss rose by ("),
    ],
)
def test_what_a_loss_does_now_is_said(loss, said):
    assert said in str(recent(Curve(STEP, noisy(loss, 0.01, 3))))


def test_noise_that_hides_a_trend_is_said():
    assert "its noise hides" in str(recent(Curve(STEP, noisy(2 + 0 * STEP, 1.5, 5))))
    assert recent(Curve(STEP[:20], flat_early(step=STEP[:20]))).kind == "short"


def test_a_short_log_that_begins_late_has_all_of_it_in_its_last_third():
    for losses in (16, 20, 31):
        step = 1000 + STEP[:losses]
        found = recent(Curve(step, noisy(2 + 0 * step, 0.05, losses)))
        assert found.first == 1001
        assert step[0] <= found.lowest <= step[-1]


def test_a_rising_loss_is_told_to_stop():
    curve = Curve(STEP, noisy(1 + (STEP / 400 - 0.3) ** 2, 0.005, 3))
    fitted = fit_or_better(forecast.PowerLaw(), [curve])
    advice = next(s for s in fitted.sentences() if s.startswith("What helps"))
    update = int(advice.partition("update ")[2].partition(",")[0])
    assert 60 <= update <= 180


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        (None, "No learning rate was logged"),
        (4e-3, "The forecast holds while the rate stays at 0.004"),
        (RATES, "The schedule of this run ends at update 400, so that the run is over"),
        (
            schedules.cosine(800, 4e-3)[:400],
            "the effect of the rest of the fall on the loss is not included",
        ),
    ],
)
def test_what_a_simple_forecast_leaves_out_is_said(rates, said):
    fitted = forecast.fit(LastLevel(), Curve(STEP, flat_early(), rates))
    assert said in " ".join(fitted.sentences())
    last = 400 if rates is RATES else 800
    assert said in " ".join(fitted.predict(steps=[last]).sentences())


HALF = schedules.cosine(800, 4e-3)[:400]


@pytest.mark.parametrize(
    ("rates", "own", "others"),
    [
        (
            HALF,
            schedules.cosine(800, 4e-3),
            (
                schedules.wsd(800, 4e-3),
                schedules.cosine(800, 8e-3),
                schedules.cosine(1600, 4e-3),
                schedules.constant(600, 4e-3),
            ),
        ),
        (
            np.full(400, 4e-3),
            schedules.constant(700, 4e-3),
            (schedules.wsd(700, 4e-3, 0.2, "linear"), schedules.constant(700, 2e-3)),
        ),
        (RATES, RATES, (schedules.cosine(800, 4e-3), np.append(RATES, np.zeros(400)))),
    ],
)
def test_a_simple_forecast_answers_for_the_schedule_of_its_log_only(rates, own, others):
    fitted = forecast.fit(LastLevel(), Curve(STEP, flat_early(), rates))
    told = fitted.predict(own)
    assert told.step[-1] == own.size
    assert "Its schedule: " in " ".join(told.sentences())
    for other in others:
        with pytest.raises(ArgumentError, match=r"`lossatlas forecast schedule` names"):
            fitted.predict(other)
        with pytest.raises(ArgumentError, match="schedule"):
            fitted.predict(Curve(STEP[300:], flat_early()[300:], other))
    with pytest.raises(ArgumentError, match="to tell what a decay would do, and LastLevel"):
        fitted.what_if(Curve(STEP, flat_early(), rates), 500)


def test_a_schedule_of_rates_says_nothing_to_a_log_without_any():
    fitted = forecast.fit(LastLevel(), Curve(STEP, flat_early()))
    with pytest.raises(ArgumentError, match="`schedule` cannot be given: the log has no learn"):
        fitted.predict(RATES)
    assert np.isfinite(fitted.predict(steps=[800]).upper[-1])


def test_twice_the_updates_of_a_run_that_is_over_are_another_schedule():
    fitted = forecast.fit(LastLevel(), Curve(STEP, flat_early(), RATES))
    with pytest.raises(ArgumentError, match="`steps` must be at most 400, where the schedule"):
        fitted.predict(steps=[800])
    running = forecast.fit(LastLevel(), Curve(STEP, flat_early(), HALF))
    assert running.predict(steps=[800]).step[-1] == 800
    with pytest.raises(ArgumentError, match="at most 800"):
        running.predict(steps=[801])


@pytest.mark.parametrize(("law", "first"), [(LastLevel(), 301), (LocalTrend(), 201)])
def test_a_simple_forecast_begins_where_it_was_fitted(law, first):
    fitted = forecast.fit(law, Curve(STEP, flat_early(), 4e-3))
    assert fitted.predict(schedules.constant(800, 4e-3)).step[0] == first
    drawn = {trace.name: trace for trace in fitted.figures()[0].plotly().data}
    assert min(drawn["forecast"].x) == first
    with pytest.raises(ArgumentError, match=f"`steps` must be {first} or more"):
        fitted.predict(steps=[1, 400])


@pytest.mark.parametrize(
    ("rates", "runs"),
    [
        (
            RATES,
            ("held for 320 updates, then linear to 0 over 80", "0.004 held for 400 updates"),
        ),
        (np.full(400, 0.1), ("held for 320 updates, then linear to 0", "cosine from 0.1 to 0")),
        (
            schedules.wsd(400, 0.1, 0.2, "linear", warmup=20),
            ("20 updates to 0.1, then cosine to 0 over 380", "0.1 held for 380 updates"),
        ),
    ],
)
def test_one_log_names_the_runs_that_tell_of_other_schedules(rates, runs):
    fitted = fit_or_better(forecast.MultiPowerLaw(), [Curve(STEP, flat_early(), rates)])
    (said,) = (s for s in fitted.sentences() if s.startswith("Other schedules: "))
    with pytest.raises(ArgumentError) as refused:
        fitted.optimize_schedule(400, float(rates.max()), warmup=20 * int(rates[0] < rates[30]))
    for text in (said, str(refused.value)):
        assert (
            "from one log nothing can be said about them, because MultiPowerLaw fails" in text
        )
        assert all(run in text for run in runs)
        assert "The last losses, averaged over a sixteenth of the updates, compare" in text
        assert "`lossatlas forecast fit LOG new1.csv new2.csv --out forecast`" in text
        assert "`lossatlas forecast schedule forecast --steps 400 --peak " in text


def test_what_helps_depends_on_the_runs_at_hand():
    every = [RATES, np.full(400, 4e-3), schedules.wsd(400, 4e-3, 0.2), HALF]
    runs = [Curve(STEP, flat_early(i), r, name=f"r{i}") for i, r in enumerate(every)]
    said = " ".join(fit_or_better(forecast.MultiPowerLaw(), runs[:2]).sentences())
    assert "from 2 logs with 2 schedules nothing can be said" in said
    assert "train the same model once more: " in said
    four = fit_or_better(forecast.MultiPowerLaw(), runs)
    said = " ".join(four.sentences())
    assert "More runs of this kind do not help, because MultiPowerLaw does not follow" in said
    ends = [np.mean(run.loss[375:]) for run in runs]
    assert four.began_with.ends == pytest.approx(ends)
    best = runs[int(np.argmin(ends))].name
    assert f"(± one standard error) compare your runs directly: {best} " in said
    assert "more: " not in said
    # No answer of this fit sends its user to more runs.
    with pytest.raises(ArgumentError) as other:
        four.predict(schedules.cosine(400, 0.1))
    with pytest.raises(ArgumentError) as ranked:
        four.optimize_schedule(400, 0.1)
    for text in (said, str(other.value), str(ranked.value)):
        assert "compare your runs directly: " in text
        assert "names the runs" not in text
        assert "train the same model" not in text
    assert "MultiPowerLaw was fitted to 4 runs with 4 schedules and failed" in str(other.value)


def test_runs_with_enough_schedules_need_a_law_of_rates_and_no_more_runs():
    every = [RATES, np.full(400, 4e-3), schedules.wsd(400, 4e-3, 0.2)]
    runs = [Curve(STEP, flat_early(i), r, name=f"r{i}") for i, r in enumerate(every)]
    with pytest.raises(ArgumentError, match="fit a law of learning rates to your 3 runs"):
        forecast.fit(forecast.PowerLaw(), runs).optimize_schedule(400, 0.1)
    bare = fit_or_better(forecast.PowerLaw(), [Curve(STEP, flat_early())])
    bare = replace(bare, provenance=Provenance(settings={"files": ["bare.csv"]}))
    (said,) = (line for line in bare.sentences() if line.startswith("Other schedules: "))
    assert "`lossatlas forecast fit new1.csv new2.csv new3.csv --out forecast`" in said


@pytest.mark.parametrize("warmup", [20, 50, 400])
@pytest.mark.parametrize("every", [1, 7, 10, 60])
@pytest.mark.parametrize("number", [True, False])
def test_one_warm_up_everywhere(warmup, every, number):
    steps = np.arange(every, 1001, every)
    whole = schedules.constant(1000, 3e-3, warmup)
    loss = noisy(0.2 + np.arange(1, 1001) ** -0.5, 0.02, 0)[steps - 1]
    rates = 3e-3 if number else whole[steps - 1]
    curve = Curve(steps, loss, rates, warmup=warmup)
    np.testing.assert_allclose(curve.lr, whole[: curve.lr.size], rtol=1e-9)
    for law in (LastLevel(), forecast.PowerLaw(), forecast.BrokenPowerLaw()):
        assert forecast.fit(law, curve, check=False).curves[0].step[0] >= warmup
        bare = Curve(steps, loss, warmup=warmup)
        assert forecast.fit(law, bare, check=False).curves[0].step[0] >= warmup
    assert length_of(curve).warmup == min(warmup, curve.lr.size // 2)
    assert own_schedule(curve).warmup == warmup
    own = own_schedule(curve)
    assert f"a warm-up of {warmup} updates to 0.003" in schedules.in_words(own.rates(2000))
    notes = " ".join(curve.notes)
    assert set(re.findall(r"warm-up of (\d+)", notes)) <= {str(warmup)}


def test_a_law_with_an_interval_from_runs_left_out_is_kept(monkeypatch):
    monkeypatch.setattr("lossatlas.forecast.verdict.USABLE", 0.01)
    # Its second halves are missed by more than is allowed, but left-out runs set an interval.
    rates = [schedules.cosine(400, 4e-3), np.full(400, 4e-3), schedules.wsd(400, 4e-3, 0.3)]
    truth = [0.3 + 0.2 * np.cumsum(r) ** -0.8 - 30 * (4e-3 - r) for r in rates]
    runs = [Curve(STEP[20:], noisy(t, 0.02, i)[20:], r) for i, (t, r) in
            enumerate(zip(truth, rates, strict=True))]  # fmt: skip
    alone = forecast.fit(forecast.MultiPowerLaw(), runs)
    assert alone.verdict.describes
    assert not alone.verdict.usable
    kept = fit_or_better(forecast.MultiPowerLaw(), runs)
    assert not isinstance(kept.law, Baseline)
    assert not kept.errors.reason
    assert not kept.distrust


def test_a_law_that_missed_by_less_is_said_to_have_no_interval():
    said = []
    for seed in range(6):
        loss = noisy(0.05 + 3 * np.exp(-STEP / 120), 0.05, seed)
        fitted = fit_or_better(forecast.PowerLaw(), [Curve(STEP, loss)])
        closer = fitted.began_with is not None and fitted.began_with.describes
        text = " ".join(fitted.sentences())
        told = "is used although it missed the second half by more" in text
        assert told == (closer and fitted.began_with.error < fitted.verdict.error)
        said.append(text)
    assert all("fit_best" not in text for text in said)


@pytest.mark.parametrize("updates", [60, 400])
def test_the_interval_of_a_simple_forecast_stands_alone(updates):
    fitted = forecast.fit(LastLevel(), Curve(STEP[:updates], flat_early()[:updates]))
    estimate = fitted.estimates()[0]
    assert estimate.texts[1] == ""
    assert estimate.reason.startswith("90 % interval [")


def test_a_simple_forecast_comes_back_from_disk(tmp_path):
    fitted = fit_or_better(forecast.PowerLaw(), [Curve(STEP, flat_early())])
    again = la.load(fitted.save(tmp_path / "fit.nc"))
    assert again.sentences() == fitted.sentences()
    np.testing.assert_array_equal(
        again.predict(steps=[800]).upper, fitted.predict(steps=[800]).upper
    )


def test_sums_that_decay_are_those_of_a_loop():
    from lossatlas.forecast.laws.annealing import _decaying_sum

    x = np.random.default_rng(0).normal(size=500)
    for decay in (0.99, 0.9995):
        total, expected = 0.0, []
        for value in x:
            total = decay * total + value
            expected.append(total)
        np.testing.assert_allclose(_decaying_sum(x, decay), expected, rtol=1e-12, atol=1e-12)
