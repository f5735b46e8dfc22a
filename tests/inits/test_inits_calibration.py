"""Coverage of what a ranking says: of single candidates, of the agreement, of the regret."""

import numpy as np
import pytest
from scipy import stats

from lossatlas.errors import DataError
from lossatlas.inits.calibration import Calibration
from lossatlas.inits.trust import Trust, trust

NOISES = {
    "normal": lambda source, n: source.normal(size=n),
    "t5": lambda source, n: source.standard_t(5, size=n),
    "skewed": lambda source, n: source.gamma(4.0, size=n) / 2 - 2,
}


def world(seed, noise, slope=1.0, candidates=32, checked=8):
    source = np.random.default_rng([7, seed])
    short = np.sort(source.normal(size=candidates))
    long = 2 + slope * short + 0.7 * NOISES[noise](source, candidates)
    ranks = np.unique(np.linspace(0, candidates - 1, checked).round().astype(int))
    return short, long, ranks


def told(seed, noise, **how):
    short, long, ranks = world(seed, noise, **how)
    known = np.full(len(short), np.nan)
    known[ranks] = long[ranks]
    line = Calibration.fit(short[ranks], long[ranks])
    _, lower, upper = line.predict(short)
    others = np.setdiff1d(np.arange(len(short)), ranks)
    inside = (lower <= long) & (long <= upper)
    simulated = line.simulate(short, known, seed)
    found = trust(short, simulated)
    return {
        "candidates": inside[others].mean(),
        "agreement": held(found.agreement, stats.spearmanr(short, long).statistic),
        "regret": held(found.regret, long[0] - long.min()),
        "zero": found.agreement[1] <= 0,
        "predicted": held(
            trust(short, simulated, np.isin(np.arange(len(short)), others)).agreement,
            stats.spearmanr(short[others], long[others]).statistic,
        ),
    }


def held(interval, truth):
    _, low, high = interval
    return low - 1e-12 <= truth <= high + 1e-12


def coverage(noise, worlds=150, **how):
    every = [told(seed, noise, **how) for seed in range(worlds)]
    return {name: np.mean([row[name] for row in every]) for name in every[0]}


@pytest.mark.parametrize("noise", NOISES)
def test_intervals_hold_what_they_say(noise):
    found = coverage(noise)
    assert 0.93 <= found["candidates"] <= 0.97
    assert found["agreement"] >= 0.92
    assert found["predicted"] >= 0.92
    # The best of 24 skewed losses is rarer than the best of normal ones.
    assert found["regret"] >= (0.88 if noise == "skewed" else 0.92)


def test_five_checked_candidates_are_enough_for_their_wider_intervals():
    found = coverage("normal", checked=5)
    assert 0.93 <= found["candidates"] <= 0.97
    assert found["agreement"] >= 0.92


def test_an_order_that_says_nothing_is_not_called_better_than_chance():
    found = coverage("normal", slope=0.0)
    assert found["zero"] >= 0.92
    assert found["agreement"] >= 0.92


def test_a_perfect_agreement_of_eight_does_not_make_the_interval_a_point():
    # The bootstrap of a rank correlation of exactly 1 gives 1 in every sample.
    short = np.arange(32.0)
    ranks = np.arange(0, 32, 4)
    long = short + 0.8 * np.sin(17 * short)
    assert stats.spearmanr(short[ranks], long[ranks]).statistic == 1.0
    line = Calibration.fit(short[ranks], long[ranks])
    known = np.full(32, np.nan)
    known[ranks] = long[ranks]
    _, low, high = trust(short, line.simulate(short, known, 0)).agreement
    assert low < 0.999
    assert high - low > 0.002


def test_the_interval_is_that_of_ordinary_least_squares():
    short, long, ranks = world(0, "normal")
    x, y = short[ranks], long[ranks]
    fit = stats.linregress(x, y)
    rest = y - (fit.intercept + fit.slope * x)
    scale = np.sqrt(rest @ rest / (len(x) - 2))
    leverage = 1 + 1 / len(x) + (short - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    half = stats.t.ppf(0.975, len(x) - 2) * scale * np.sqrt(leverage)
    expected, lower, upper = Calibration.fit(x, y).predict(short)
    np.testing.assert_allclose(expected, fit.intercept + fit.slope * short)
    np.testing.assert_allclose(upper - lower, 2 * half)


def test_intervals_of_positive_losses_are_positive_and_hold():
    held_ones = []
    for seed in range(150):
        short, long, ranks = world(seed, "normal")
        short, long = np.exp(short - 4), np.exp(long - 6)
        line = Calibration.fit(short[ranks], long[ranks])
        expected, lower, upper = line.predict(short)
        assert line.is_log
        assert (lower > 0).all()
        assert (lower < expected).all()
        assert (line.simulate(short, np.full(32, np.nan), seed) > 0).all()
        others = np.setdiff1d(np.arange(32), ranks)
        held_ones.append(((lower <= long) & (long <= upper))[others].mean())
    assert 0.93 <= np.mean(held_ones) <= 0.97


def test_the_log_line_is_the_line_of_logarithms():
    short, long, ranks = world(1, "normal")
    x, y = short[ranks], long[ranks]
    plain, log = Calibration.fit(x - 9, y - 9), Calibration.fit(np.exp(x), np.exp(y))
    assert (plain.is_log, log.is_log) == (False, True)
    assert log.slope == pytest.approx(plain.slope)
    for of_log, of_plain in zip(
        log.predict(np.exp(short)), plain.predict(short - 9), strict=True
    ):
        np.testing.assert_allclose(np.log(of_log), of_plain + 9)
    np.testing.assert_allclose(
        np.log(log.simulate(np.exp(short), np.full(32, np.nan), 5)),
        plain.simulate(short - 9, np.full(32, np.nan), 5) + 9,
    )
    values = log.predict(np.exp(short))[0]
    np.testing.assert_allclose(log.stderr(np.exp(short)), values * plain.stderr(short - 9))


def test_equal_short_losses_and_diverged_candidates():
    line = Calibration.fit(np.ones(5), np.arange(5.0))
    expected, lower, upper = line.predict(np.array([1.0, np.nan]))
    assert expected[0] == pytest.approx(2.0)
    # No loss of the check is negative, so no interval is.
    assert lower[0] == 0 < upper[0]
    assert np.isnan(upper[1])
    simulated = line.simulate(np.ones(3), np.array([np.inf, np.nan, 1.0]), 0)
    assert np.isinf(simulated[:, 0]).all()
    assert (simulated[:, 2] == 1.0).all()
    assert trust(np.ones(3), simulated).regret[0] == np.inf
    with pytest.raises(DataError, match="4 are needed"):
        Calibration.fit(np.ones(3), np.ones(3))


def test_measured_candidates_do_not_narrow_the_interval_of_the_predicted_ones():
    short, long, _ = world(3, "normal", candidates=12)
    left = np.isin(np.arange(12), [2, 5, 7, 9])
    line = Calibration.fit(short[~left], long[~left])
    simulated = line.simulate(short, np.where(left, np.nan, long), 0)
    _, low, high = trust(short, simulated, left).agreement
    slow = [stats.spearmanr(short[left], row[left]).statistic for row in simulated]
    assert (low, high) == pytest.approx(
        np.quantile(slow, (0.025, 0.975), method="inverted_cdf").tolist()
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_predicted_candidates_are_never_trusted(count):
    simulated = np.tile(np.arange(8.0), (50, 1))
    found = trust(np.arange(8.0), simulated, np.arange(8) < count)
    assert np.isnan(found.agreement).all()
    assert found.left_out == count
    assert f"unknown: only {count} of the candidates" in found.verdict
    assert found.estimates()[0].why_no_error


def test_a_first_candidate_no_better_than_any_is_not_better_than_chance():
    sure = (0.9, 0.8, 1.0)
    for regret in (0.2, 0.3, np.inf, np.nan):
        told = Trust(sure, (regret, 0.0, 1.0), 0.2, 24).verdict
        assert "cannot be distinguished from chance" in told
    assert Trust(sure, (0.1, 0.0, 1.0), 0.2, 24).verdict == "the order can be trusted"
    better = Trust((0.5, 0.2, 0.8), (0.1, 0.0, 1.0), 0.2, 24).verdict
    assert better.startswith("the order is better than chance")
