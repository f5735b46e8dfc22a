"""Hostile arguments to every exported callable end in named errors or in a result."""

import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import AtlasError
from lossatlas.forecast import Curve, schedules

STEP = np.arange(10, 1010, 10)
GOOD = [
    Curve(STEP, 2 + STEP**-0.5 + k / 50, 1e-3, name=str(k), size=1e6 * (k + 1))
    for k in range(3)
]


def hostile():
    return [
        None, True, -1, 0, 1, 2, 0.5, np.nan, np.inf, -np.inf, 10**400, 10**13, 1e300, 1e-320,
        "", "x", "step", "sqrt", b"x", [], {}, (), [None], [[1], [1, 2]], object(), int,
        np.array([]), np.array([1.0, 2.0]), np.array([np.nan, 1.0]), np.array(3), 1j, {"a": 1},
        {"L0": "x"}, {"K": 1.0}, np.array(["a"]), np.datetime64("2020-01-01"), STEP,
        2 + STEP**-0.5,
        np.ones((2, 2)), Path("/nowhere"), "/nowhere/x.csv", "a\0b", GOOD[0], GOOD,
        [GOOD[0], 3],
        forecast.PowerLaw(), forecast.PowerLaw, forecast.ChinchillaLaw(), iter(()), {1, 2},
        np.ma.masked_array([1.0, 2.0], [True, False]), lambda: 1, float, range(3), ["step"],
    ]  # fmt: skip


FIT = forecast.fit(forecast.MultiPowerLaw(), GOOD, check=False)
COUNTED = forecast.fit(forecast.PowerLaw(), GOOD[0].without_rates(), check=False)
LIVE = forecast.LiveForecast(np.ones(50))
BOUND = {
    **{f"Fit.{n}": getattr(FIT, n) for n in
       ("predict", "what_if", "optimize_schedule", "parameter_intervals", "save")},
    "PowerLaw fit.predict": COUNTED.predict,
    "Fit.from_parameters": forecast.Fit.from_parameters,
    **{f"Curve.{n}": getattr(GOOD[0], n) for n in ("select", "until", "thinned")},
    "LiveForecast.update": LIVE.update,
    **{f"schedules.{n}": getattr(schedules, n) for n in
       ("constant", "cosine", "wsd", "wsd_s", "ramp", "warmup_length", "is_monotone")},
}  # fmt: skip
DATA = (
    "Deceleration",
    "Prediction",
    "LiveReading",
    "SchedulePlan",
    "WhatIf",
    "Fit",
    "LAWS",
    "Spikes",
    "schedules",
)
EXPORTED = {
    name: getattr(forecast, name) for name in forecast.__all__ if name not in DATA
} | BOUND


def call_once(name, rng, values):
    target = EXPORTED[name]
    arguments, keywords = [], {}
    for p in inspect.signature(target).parameters.values():
        if p.kind in {p.VAR_KEYWORD, p.VAR_POSITIONAL}:
            continue
        if p.default is not p.empty and rng.random() < 0.6:
            continue
        value = values[rng.integers(len(values))]
        good = {"law": forecast.PowerLaw(), "curves": GOOD, "curve": GOOD[0],
                "lr": np.ones(50), "steps": 100, "peak": 1e-3, "step": STEP,
                "loss": 2 + STEP**-0.5}  # fmt: skip
        # Half of the arguments are fair, so that the others are reached.
        value = good[p.name] if p.name in good and rng.random() < 0.5 else value
        if p.kind is p.KEYWORD_ONLY:
            keywords[p.name] = value
        elif p.default is p.empty:
            arguments.append(value)
        else:
            keywords[p.name] = value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target(*arguments, **keywords)
    except AtlasError:
        pass
    except Exception as error:  # the point: anything else is a fault
        return (
            f"{name}{tuple(map(repr, arguments))} {keywords!r}: {type(error).__name__}: {error}"
        )
    return None


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_no_unnamed_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng([7, *name.encode()])
    faults = [fault for _ in range(12) if (fault := call_once(name, rng, hostile()))]
    assert not faults, "\n".join(faults)
