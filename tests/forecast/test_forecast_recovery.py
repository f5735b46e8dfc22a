"""Laws find the truth in noisy data of their own, without bias and within their intervals."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from lossatlas import forecast
from reference.forecast_recovery import CASES, over_time, recovery


@pytest.mark.parametrize("name", CASES)
def test_noisy_data_give_the_parameters_back(name):
    draws = 12
    errors, held = recovery(name, 0.01, draws)
    known = ~np.isnan(held)
    # 95 % intervals of a dozen draws: fewer than four in five held would be a fault.
    assert held[known].mean() > 0.8
    # The prior of the multi-power law holds what a few curves leave open; see its own test.
    free = known.all(axis=0)
    assert free.sum() >= 3
    offset = np.abs(np.median(errors, axis=0)) / (np.std(errors, axis=0) + 1e-12)
    assert (offset[free] < 1.0).all()


def test_a_floor_may_lie_above_the_lowest_loss():
    law, far = forecast.PowerLaw(), forecast.Curve([1, 100_000], [2.0, 1.0])
    found, least_squares = [], []
    for seed in range(20):
        (curve,) = over_time(law, (2, 20, 0.8), 0.01, seed)
        fit = forecast.fit(law, curve, check=False)
        found.append([fit.parameters["alpha"], law.predict(fit.values, far.inputs)[-1]])
        best, _ = curve_fit(lambda t, a, b, c: a + b * t**-c, curve.step, curve.loss, [2, 9, 1])
        least_squares.append(best[2])
        assert fit.parameters["L0"] > curve.loss.min()
    assert np.median(found, axis=0)[0] == pytest.approx(np.median(least_squares), abs=0.02)
    assert np.median(found, axis=0)[0] == pytest.approx(0.8, abs=0.02)
    assert np.median(found, axis=0)[1] == pytest.approx(2 + 20 * 100_000**-0.8, rel=1e-3)


def test_what_has_no_interval_has_a_reason():
    _, held = recovery("multi-power", 0.01, 2)
    assert np.isnan(held[:, 4:]).all()
    law, values, make, _ = CASES["multi-power"]
    fit = forecast.fit(law, make(law, values, 0.01, 0), check=False, fixed={"gamma": 0.5})
    reasons = {row.name: row.reason for row in fit.parameter_errors}
    assert reasons["gamma"] == "it was given"
    assert "these curves do not determine it" in reasons["C"]
    assert "its value comes from the prior" in reasons["beta"]
    assert not reasons["L0"]
    assert np.isnan(fit.parameter_intervals()["C"]).all()
    few = forecast.Curve([1, 2, 3, 4], [3.0, 2.6, 2.5, 2.45])
    lone = forecast.fit(forecast.PowerLaw(), few, check=False)
    assert all("few" in row.reason or np.isfinite(row.stderr) for row in lone.parameter_errors)


def test_neighbors_that_are_alike_widen_the_intervals():
    law, values, make, _ = CASES["power"]
    ratios, degrees = [], []
    for seed in range(6):
        (white,) = make(law, values, 0.003, seed)
        rng, residual = np.random.default_rng(seed), np.zeros(white.step.size)
        for i in range(1, residual.size):
            step = np.sqrt(1 - 0.81) * 0.003 * rng.standard_normal()
            residual[i] = 0.9 * residual[i - 1] + step
        truth = law.predict(np.array(values, float), white.inputs)
        smooth = forecast.Curve(white.step, truth * np.exp(residual))
        plain, alike = (
            forecast.fit(law, curve, check=False).parameter_errors[2]
            for curve in (white, smooth)
        )
        ratios.append(alike.stderr / plain.stderr)
        degrees.append(alike.degrees / plain.degrees)
    # A draw whose parameter is not known at all widens it too.
    assert np.nanmedian(ratios) > 2
    assert np.median(degrees) < 0.25


@pytest.mark.parametrize("truth", [(2, 20, 0.8), (2.5, 6, 0.5), (1.5, 10, 0.3)])
def test_a_floor_is_no_bend(truth):
    law = forecast.PowerLaw()
    found = [
        forecast.deceleration(over_time(law, truth, noise, seed)[0]) is not None
        for noise in (0.001, 0.01)
        for seed in range(4)
    ]
    assert sum(found) == 0


def test_a_bend_beside_a_floor_is_found():
    law = forecast.BrokenPowerLaw()
    found = [
        forecast.deceleration(over_time(law, (4, 1000, 0.15, 0.05, 0.1), 0.01, seed)[0])
        for seed in range(8)
    ]
    assert sum(bend is not None for bend in found) >= 7
    assert np.median([bend.step for bend in found if bend]) == pytest.approx(1000, rel=0.2)
