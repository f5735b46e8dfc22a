"""Intervals of laws hold the final losses of runs that took no part; too narrow ones do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.forecast import Curve

STEP = np.arange(10, 401, 10)
DRAWS, RUNS, LUCK = 40, 4, 0.02


def runs(seed):
    """Runs of one law that differ by the luck of their seeds, all along."""
    rng = np.random.default_rng(seed)
    return [
        Curve(STEP, (2 + 3 * STEP**-0.5) * np.exp(rng.normal(0, LUCK)) * noise)
        for noise in np.exp(rng.normal(0, 0.002, (RUNS, STEP.size)))
    ]


def share_held():
    """How often the 90 % interval of a fit to three runs holds the end of a fourth."""
    held = 0
    for seed in range(DRAWS):
        *fitted, unseen = runs(seed)
        told = forecast.fit(forecast.PowerLaw(), fitted).predict(steps=[400])
        held += told.lower[-1] <= unseen.loss[-1] <= told.upper[-1]
    return held / DRAWS


# Three standard errors below what was promised.
LEAST_HELD = 0.9 - 3 * np.sqrt(0.9 * 0.1 / DRAWS)


def test_intervals_of_a_law_hold_runs_that_it_has_not_seen():
    assert share_held() >= LEAST_HELD


@pytest.mark.parametrize("factor", [0.1, 0.3])
def test_intervals_that_are_too_narrow_would_be_found(monkeypatch, factor):
    from lossatlas.forecast import validation

    monkeypatch.setattr(validation, "CALIBRATION", factor * validation.CALIBRATION)
    assert share_held() < LEAST_HELD


def test_the_guide_reports_what_the_study_of_simple_forecasts_measured():
    docs = Path(__file__).parents[2] / "docs"
    results = json.loads((docs / "studies/forecast/simple.json").read_text("utf-8"))
    guide = " ".join((docs / "guide/forecast.md").read_text("utf-8").split())
    others, falling = results["others"], results["falling"]

    def percent(share):
        return f"{100 * share:.0f} %"

    for times in ("1.3", "2", "4"):
        assert f"| {times} | {percent(others[times]['held'])} | |" in guide
    assert f"({others['forecasts']} forecasts) | {percent(others['held'])} | " in guide
    assert f"by more than {percent(others['off_half'])}, one in ten by" in guide
    assert f"one in ten by more than {percent(others['off_tenth'])}" in guide
    assert f"of {falling['forecasts']} forecasts" in guide
    assert f"{percent(falling['ended_lower'])} ended lower" in guide
