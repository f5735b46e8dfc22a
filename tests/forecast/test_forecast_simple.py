"""Simple forecasts: the answer where no law passes, with an interval that holds."""

import numpy as np
import pytest

import lossatlas as la
from lossatlas import forecast
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, LastLevel, LocalTrend, schedules
from lossatlas.forecast.choice import SIMPLE, fit_each, fit_or_better
from lossatlas.forecast.laws import Baseline
from lossatlas.forecast.recent import recent
from lossatlas.forecast.rolling import errors_of, spread_of

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
    assert fitted.headline().startswith("The expected loss at step 800 is 0.05")
    assert "90 % interval [" in fitted.headline()
    said = " ".join(fitted.sentences())
    assert "No law is used: MultiPowerLaw " in said
    assert "The loss has been flat within its noise since about update" in said
    assert said.count("What helps: ") == 1
    told = fitted.predict(steps=[800])
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
    assert np.isnan(spread_of(LastLevel(), long.curves[0], 90.0))


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
        (4e-3, "it holds while the rate stays as it is"),
        (RATES, "has fallen to zero, so that this run is over"),
        (
            schedules.cosine(800, 4e-3)[:400],
            "what a further fall of the rate gains is left out",
        ),
    ],
)
def test_what_a_simple_forecast_leaves_out_is_said(rates, said):
    fitted = forecast.fit(LastLevel(), Curve(STEP, flat_early(), rates))
    assert said in " ".join(fitted.sentences())
    assert said.lower() in " ".join(fitted.predict(steps=[800]).sentences()).lower()


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
