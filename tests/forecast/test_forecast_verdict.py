"""What no law describes is never called usable; what a law describes usually is."""

import zlib

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import ArgumentError
from lossatlas.forecast import schedules
from lossatlas.forecast.choice import fit_or_better

STEPS, EVERY, PEAK, SEEDS = 1000, 20, 3e-3, 20
STEP = np.arange(EVERY, STEPS + 1, EVERY)
SCHEDULES = (
    schedules.constant(STEPS, PEAK),
    schedules.cosine(STEPS, PEAK),
    schedules.cosine(2 * STEPS, PEAK)[:STEPS],
    schedules.wsd(STEPS, PEAK, 0.2),
)
LAWS = {
    "power": forecast.PowerLaw(),
    "linear-lr": forecast.LinearLRLaw(),
    "annealing": forecast.AnnealingLaw(),
    "multi-power": forecast.MultiPowerLaw(),
}
TIME = STEP / STEPS
NOBODYS = {
    "to a floor": lambda random: 0.5 + 2 * np.exp(-TIME / random.uniform(0.05, 0.5)),
    "level": lambda random: np.full(STEP.size, random.uniform(0.5, 3)),
    "growing": lambda random: 1 + TIME,
    "oscillating": lambda random: 2 + 0.3 * np.sin(12 * TIME + random.uniform(0, 6)),
    "oscillating fast": lambda random: 2 + 0.3 * np.sin(40 * TIME + random.uniform(0, 6)),
    "falling, then growing": lambda random: 1 + 3 * STEP**-0.5 + TIME / 2,
    "a random walk": lambda random: np.exp(0.1 * random.normal(size=STEP.size).cumsum()),
}


def generator(*names):
    return np.random.default_rng(zlib.crc32(repr(names).encode()))


def noisy(loss, noise, random):
    return loss * np.exp(noise * random.normal(size=loss.size))


def own_curve(name, rates, random):
    """A curve of a law with parameters as they are found."""
    alpha, floor = random.uniform(0.3, 0.8), random.uniform(0.5, 3)
    fall = floor * random.uniform(0.3, 1) * rates.sum() ** alpha
    gains = {
        "power": [], "linear-lr": [0.1 * floor / PEAK],
        "annealing": [0.05 * floor / PEAK / STEPS],
        "multi-power": [0.1 * floor / PEAK, 2.0, 0.6, 0.5],
    }  # fmt: skip
    law, blank = LAWS[name], forecast.Curve(STEP, 2.0 + TIME, rates)
    return law.predict([floor, fall, alpha, *gains[name]], blank.inputs)


@pytest.mark.parametrize("name", ["power", "multi-power"])
@pytest.mark.parametrize("kind", NOBODYS)
def test_a_curve_that_no_law_describes_is_never_called_usable(kind, name):
    random = generator("nobody's", kind, name)
    for seed in range(SEEDS):
        loss = noisy(NOBODYS[kind](random), 0.01, random)
        curve = forecast.Curve(STEP, loss, SCHEDULES[seed % len(SCHEDULES)])
        fitted = forecast.fit(LAWS[name], curve)
        assert fitted.verdict.usable is not True, (seed, fitted.verdict)
        assert "are usable" not in " ".join((fitted.headline(), *fitted.sentences()))


@pytest.mark.parametrize("name", LAWS)
def test_curves_of_a_law_are_usually_called_usable(name):
    # Twice the noise of the logs of language models that the study reads.
    random, usable = generator("own", name), 0
    for seed in range(2 * SEEDS):
        rates = SCHEDULES[seed % len(SCHEDULES)]
        loss = noisy(own_curve(name, rates, random), 0.002, random)
        fitted = forecast.fit(LAWS[name], forecast.Curve(STEP, loss, rates))
        assert fitted.verdict.describes
        usable += fitted.verdict.usable is True
    assert usable >= 0.9 * 2 * SEEDS


def test_a_law_that_fails_gives_way_to_one_that_passes():
    random = generator("better")
    rates = SCHEDULES[3]
    curve = forecast.Curve(
        STEP, noisy(own_curve("annealing", rates, random), 1e-3, random), rates
    )
    wrong = forecast.PowerLaw()
    assert forecast.fit(wrong, curve).verdict.usable is not None
    best = fit_or_better(forecast.MultiPowerLaw(), [curve])
    assert best.verdict.usable
    assert best.headline().startswith("The expected loss at step ")
    assert "are usable: a fit to the first half" in " ".join(best.sentences())


def to_a_floor():
    """The stranger's curve: an exponential under half of a cosine."""
    step = np.arange(5, 301, 5)
    loss = 0.5 + 2 * np.exp(-step / 60)
    return forecast.Curve(step, loss, schedules.cosine(600, 3e-3)[:300])


def test_a_fit_that_fails_says_so_first_and_prints_no_bound_as_a_number():
    fitted = fit_or_better(forecast.MultiPowerLaw(), [to_a_floor()])
    said = " ".join(fitted.sentences())
    assert "No law is used: MultiPowerLaw fails its checks" in said
    assert "None of 6 other laws passes the checks either; 2 simple forecasts were" in said
    alone = forecast.fit(forecast.MultiPowerLaw(), to_a_floor())
    assert alone.headline().startswith("MultiPowerLaw does not fit the curve: ")
    said = " ".join(alone.sentences())
    assert "690.78" not in said
    assert "more than a factor of 1,000" in said
    told = alone.predict(schedules.cosine(600, 3e-3))
    assert told.distrust.startswith("do not use this forecast: MultiPowerLaw does not")
    assert told.sentences()[0].startswith("Do not use this forecast: ")
    assert told.title.startswith("Not to be used: forecast at 600")
    assert told.to_dict()["distrust"] == told.distrust


def test_rising_losses_are_named():
    accuracy = forecast.Curve(STEP, noisy(0.3 + 0.6 * TIME, 0.01, generator("rise")), PEAK)
    assert (
        "the loss rises, and laws describe losses that fall"
        in forecast.fit(LAWS["power"], accuracy).headline()
    )


def test_a_level_loss_leaves_forecasts_unchecked():
    level = forecast.Curve(STEP, noisy(np.full(STEP.size, 2.0), 0.01, generator("level")), PEAK)
    fitted = forecast.fit(LAWS["multi-power"], level)
    assert fitted.verdict.usable is None
    assert fitted.headline().startswith("Unchecked: the expected loss at step ")
    said = " ".join(fitted.sentences())
    assert "unchecked: in the second half of the log the loss falls by no more than its" in said


def test_laws_of_one_curve_are_compared_by_its_second_half():
    best = forecast.fit_best([to_a_floor()])
    assert len(best.alternatives) == 9
    assert best.alternatives[0].error == best.verdict.error
    assert "error on the second half" in best.tables()[0].head
    short = forecast.Curve([10, 20, 30, 40, 50, 60], [3.0, 2.5, 2.2, 2.1, 2.0, 1.95], PEAK)
    with pytest.raises(ArgumentError, match="halves are long enough"):
        forecast.fit_best([short])


def test_a_backtest_that_is_a_bound_is_called_one():
    fitted = forecast.fit(LAWS["annealing"], to_a_floor())
    assert fitted.backtests[0].clipped > 0
    assert fitted.errors.doubling_is_bound
    assert fitted.verdict.is_bound
