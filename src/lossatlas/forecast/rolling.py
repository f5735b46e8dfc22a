"""Forecasts that a run could have made of its own past, and intervals from their errors.

For a forecast over h times the updates of a log that ends at update T, the run is cut at
T / h and at earlier updates; each part is forecast over h times its own updates and compared
with what came ("rolling-origin evaluation"). These few errors of one run are an unsteady scale,
which is averaged (geometric mean) with how far a continued level and a continued trend differ.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.backtest import neighbor_noise
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.law import Law, log_error
from lossatlas.forecast.laws.baselines import LastLevel, LocalTrend
from lossatlas.forecast.solver import FitSettings
from lossatlas.forecast.validation import ErrorModel
from lossatlas.intervals import t_quantile

Floats = NDArray[np.float64]

SHARES = (1.0, 0.85, 0.7, 0.6, 0.5)  # of the last update: where checked forecasts end
LEAST = 3  # checks without which there is no interval
FEWEST = 5  # points of a log that is forecast from
TARGET, POINTS = 0.125, 4  # the loss at an update: the last so much of the updates before it
NEAREST, SPACING = 1.1, 1.2  # horizons that are checked: the first, and from one to the next
# From errors of 106 real trainings, at 1.3, 2 and 4 times the log; the guide reports what the
# intervals hold of 93 others, which had no say in it.
CALIBRATION, REACH = 0.57, 0.25
# Of the Student distribution whose quantiles these errors follow.
DEGREES = 3
_MEDIAN = 1.25  # the standard error of a median over that of a mean


@dataclass(frozen=True, eq=False)
class PastErrors(ErrorModel):
    """How wrong a forecaster has been on the past of one run.

    Attributes:
        law: the forecaster.
        curve: the run.
    """

    law: Law = field(kw_only=True)
    curve: Curve = field(kw_only=True)

    def half_width(
        self, level: float, horizon: Floats | float, leverage: Floats | float
    ) -> Floats:
        """Half the interval of the log loss; NaN where the log is too short to check it."""
        del leverage
        wanted = np.log(np.maximum(np.asarray(horizon, dtype=np.float64), NEAREST))
        first, last = np.log(NEAREST), max(float(wanted.max()), np.log(NEAREST) + 1e-9)
        grid = np.linspace(first, last, 2 + int((last - first) / np.log(SPACING)))
        scale = [self._scale(float(np.exp(h))) for h in grid]
        factor = CALIBRATION * float(t_quantile(level, DEGREES + 1))
        return np.asarray(np.interp(wanted, grid, factor * _never_narrower(np.array(scale))))

    def _scale(self, horizon: float) -> float:
        spread, noise = spread_of(self.law, self.curve, horizon)
        apart = np.hypot(self._differ(horizon), noise)
        return float(np.sqrt(spread * apart) * horizon**REACH)

    # How far apart the simple forecasts of the end lie, in log loss.
    def _differ(self, horizon: float) -> float:
        level, trend = self._continued
        end = np.log2(horizon * int(self.curve.step[-1]))
        return float(abs(np.log(trend[0]) + end * np.log(trend[1]) - np.log(level[0])))

    @cached_property
    def _continued(self) -> tuple[Floats, Floats]:
        laws = (LastLevel(), LocalTrend())
        level, trend = (FitSettings(law, law.huber).solve([self.curve]).values for law in laws)
        return level, trend


# Near horizons that a sparse log cannot check have the error of the first that it can; farther
# ones than it can check have none.
def _never_narrower(spread: Floats) -> Floats:
    known = np.flatnonzero(np.isfinite(spread))
    if not known.size:
        return spread
    wide = np.fmax.accumulate(spread)
    wide[: known[0]] = wide[known[0]]
    wide[known[-1] + 1 :] = np.nan
    return np.asarray(wide)


def past_errors(law: Law, curve: Curve) -> PastErrors:
    """The errors of forecasts of the past over twice the updates, and where they come from."""
    errors, _ = errors_of(law, curve, 2.0)
    reason = (
        ""
        if errors.size >= LEAST
        else (
            "the log is too short to check forecasts of its own past; log more often, or longer"
        )
    )
    scale = float(np.sqrt(np.mean(errors**2))) if errors.size else float("nan")
    return PastErrors(scale, DEGREES, float("nan"), scale, reason=reason, law=law, curve=curve)


def spread_of(law: Law, curve: Curve, horizon: float) -> tuple[float, float]:
    """The typical error over a horizon, NaN where it cannot be checked, and that of noise."""
    errors, noise = errors_of(law, curve, horizon)
    if errors.size < LEAST:
        return float("nan"), noise
    # By chance all checks may be closer than the noise alone allows.
    return float(max(np.sqrt(np.mean(errors**2)), noise)), noise


def errors_of(law: Law, curve: Curve, horizon: float) -> tuple[Floats, float]:
    """Log errors of past forecasts over a horizon, and what noise alone makes of one."""
    log, last = np.log(curve.loss), int(curve.step[-1])
    settings, errors, noise = FitSettings(law, law.huber), [], 0.0
    for share in SHARES:
        known = curve.step <= share * last / horizon
        late = _before(curve, share * last) & ~known
        if known.sum() < FEWEST or late.sum() < POINTS or np.ptp(curve.loss[known]) == 0:
            break
        early = curve.select(known)
        values = settings.solve([early]).values
        forecast = law.predict(values, curve.inputs)[late]
        errors.append(float(np.median(log_error(forecast, curve.loss[late]))))
        counts = law.recent(early).step.size, int(late.sum())
        scatter = neighbor_noise(log[curve.step > last / 2])
        noise = max(noise, float(_MEDIAN * scatter * np.sqrt(sum(1 / n for n in counts))))
    return np.array(errors), noise


# The points that show the loss at an update.
def _before(curve: Curve, update: float) -> NDArray[np.bool_]:
    chosen = (curve.step <= update) & (curve.step > (1 - TARGET) * update)
    if chosen.sum() < POINTS:
        chosen[max(int((curve.step <= update).sum()) - POINTS, 0) :] = True
        chosen &= curve.step <= update
    return np.asarray(chosen)
