"""Forecast: what will the loss be, under this schedule or a better one?

Curves in, a fitted law out, and from it forecasts with intervals that come from the law's
errors on curves it had not seen. Needs numpy and scipy only.

    from lossatlas import forecast
    fit = forecast.fit(forecast.MultiPowerLaw(), [forecast.Curve(step, loss, lr), ...])
    fit.predict(forecast.schedules.wsd(24_000, 3e-4, decay=0.2)).final
"""

from lossatlas.arguments import guard_exports
from lossatlas.forecast import schedules
from lossatlas.forecast.best_schedule import SchedulePlan
from lossatlas.forecast.choice import fit_best
from lossatlas.forecast.curve import Curve, points
from lossatlas.forecast.fit import fit
from lossatlas.forecast.laws import (
    LAWS,
    AnnealingLaw,
    BrokenPowerLaw,
    ChinchillaLaw,
    KaplanLaw,
    LastLevel,
    LinearLRLaw,
    LocalTrend,
    MultiPowerLaw,
    PowerLaw,
    ShiftedPowerLaw,
    smoothed,
    translate,
)
from lossatlas.forecast.live import LiveForecast, LiveReading
from lossatlas.forecast.prediction import Prediction, WhatIf
from lossatlas.forecast.readers import (
    read_csv,
    read_json,
    read_points,
    read_tensorboard,
    read_tensorboard_events,
    read_trainer_state,
    read_wandb,
)
from lossatlas.forecast.result import Fit
from lossatlas.forecast.schedules import from_torch
from lossatlas.forecast.watch import Deceleration, Spikes, deceleration, spikes

__all__ = [
    "LAWS",
    "AnnealingLaw",
    "BrokenPowerLaw",
    "ChinchillaLaw",
    "Curve",
    "Deceleration",
    "Fit",
    "KaplanLaw",
    "LastLevel",
    "LinearLRLaw",
    "LiveForecast",
    "LocalTrend",
    "MultiPowerLaw",
    "PowerLaw",
    "Prediction",
    "LiveReading",
    "SchedulePlan",
    "ShiftedPowerLaw",
    "Spikes",
    "WhatIf",
    "deceleration",
    "fit",
    "fit_best",
    "from_torch",
    "points",
    "read_csv",
    "read_json",
    "read_points",
    "read_tensorboard",
    "read_tensorboard_events",
    "read_trainer_state",
    "read_wandb",
    "schedules",
    "smoothed",
    "spikes",
    "translate",
]

guard_exports(__name__)
