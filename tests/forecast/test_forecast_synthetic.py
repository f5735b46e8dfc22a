"""BasePoint truth from theory: random features and SGD on structured features."""

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.forecast import Curve, schedules
from reference.forecast_laws import random_features, structured_sgd

A, B = 1.2, 0.6  # spectrum k^-2a, target k^-b: the loss falls as S1^-((2a + 2b - 1) / 2a)
EXPONENT = (2 * A + 2 * B - 1) / (2 * A)


def sgd_run(rates, name, batch=64, features=1000, floor=0.5):
    k = np.arange(1.0, features + 1)
    loss = structured_sgd(k ** (-2 * A), k ** (-2 * B), rates, batch, floor)
    steps = np.unique(np.geomspace(40, rates.size, 120).astype(int))
    return Curve(steps, loss[steps - 1], rates, name=name)


def test_the_exponent_of_structured_features_is_found():
    # Large batches: no noise term, so the law is a pure power of the sum of rates.
    curve = sgd_run(schedules.constant(4000, 0.3), "constant", batch=10**9, features=3000)
    found = forecast.fit(forecast.PowerLaw(), curve, check=False).parameters
    assert found["alpha"] == pytest.approx(EXPONENT, rel=0.05)
    assert found["L0"] == pytest.approx(0.5, rel=1e-3)


def test_the_exponent_of_random_features_is_found():
    rng = np.random.default_rng(0)
    eigenvalues, target, floor = random_features(A, B, 300, 1500, rng)
    rates = schedules.constant(3000, 0.3 / eigenvalues.max())
    loss = structured_sgd(eigenvalues, target, rates, 10**9) + floor + 0.5
    steps = np.unique(np.geomspace(30, 3000, 100).astype(int))
    found = forecast.fit(
        forecast.PowerLaw(), Curve(steps, loss[steps - 1], rates), check=False
    ).parameters
    assert found["alpha"] == pytest.approx(EXPONENT, rel=0.1)


def test_laws_of_the_rate_forecast_sgd_under_unseen_schedules():
    peak, steps = 0.4, 2000
    make = {
        "constant": schedules.constant(steps, peak),
        "cosine": schedules.cosine(steps, peak, 0.1),
        "two-step": np.repeat([peak, 0.3 * peak], steps // 2),
        "linear": schedules.wsd(steps, peak, 0.3, "linear", min_ratio=0.1),
        "sqrt": schedules.wsd(steps, peak, 0.2, "sqrt", min_ratio=0.1),
    }
    runs = {name: sgd_run(rates, name, batch=4) for name, rates in make.items()}
    known = [runs[name] for name in ("constant", "cosine", "two-step")]
    plain = forecast.fit(forecast.PowerLaw(), known, check=False)
    best = forecast.fit_best(known, [forecast.MultiPowerLaw(), forecast.AnnealingLaw(0.99)])
    for name in ("linear", "sqrt"):
        loss, lower, upper = best.predict(runs[name]).final
        truth = runs[name].loss[-1]
        assert lower <= truth <= upper
        assert abs(loss - truth) < 0.25 * abs(plain.predict(runs[name]).final[0] - truth)
