"""Intervals from errors that were seen: curves left out, and horizons doubled.

The residuals of a fit are no yardstick: resampling them covers 0 to 17 % of final losses where
90 % was promised, because the law, not the noise, is wrong. A left-out curve shows that error.
A curve that lies far from the others is forecast worse: errors are compared, and intervals
widened, by the leverage, as in linear regression.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from lossatlas.intervals import t_quantile

Floats = NDArray[np.float64]

LEAST = 3  # left-out groups without which there is no interval
# Chosen so that 90 % intervals hold 90 % at 25M, over all training sets and three laws; the
# study reports what they hold at 100M, which had no say in it.
CALIBRATION = 1.14
# A left-out curve that lies farther than this is held by limits and priors, not by the data:
# its error is smaller than its leverage lets expect, and says less of the unit.
FARTHEST = 9.0


@dataclass(frozen=True)
class LeftOut:
    """One curve, forecast by a fit that had not seen it.

    Attributes:
        name: the curve.
        group: what was left out with it; the name of the curve where it was alone.
        steps: its last step.
        horizon: its last step over the longest last step that the fit had seen.
        final: log of forecast over truth at its last point that is no spike.
        rms: root mean square of the same over all its points, spikes left out.
        mae: mean absolute error, in units of the loss, spikes left out.
        spikes: points that were left out because they stand far off their neighbors.
        leverage: how far the curve lies from what the fit had seen: the variance of its final
            log loss (of its points, for laws of single points) in units of that of one curve
            (point); NaN where it is not known.
        pointwise: whether the rows are single points, of which none is the final one.
    """

    name: str
    group: str
    steps: int
    horizon: float
    final: float
    rms: float
    mae: float
    spikes: int = 0
    leverage: float = float("nan")
    pointwise: bool = False

    @property
    def error(self) -> float:
        """The error that counts: the final one, or the typical one where that is larger."""
        return max(abs(self.final), self.rms)


@dataclass(frozen=True)
class ErrorModel:
    """How wrong the law has been, on a logarithmic scale.

    Attributes:
        scale: root mean square error of the left-out groups.
        groups: how many there were.
        doubling: root mean square error of forecasts over twice the horizon that was fitted;
            NaN where it could not be measured.
        unit: root mean square of the left-out errors, each divided by sqrt(1 + its leverage);
            NaN where nothing was left out.
        factor: by which half widths are stretched.
        reason: why there is no interval, in a sentence; empty where there is one.
    """

    scale: float
    groups: int
    doubling: float
    unit: float
    factor: float = 1.0
    reason: str = ""

    def half_width(
        self, level: float, horizon: Floats | float, leverage: Floats | float
    ) -> Floats:
        """Half the interval of the log loss."""
        beyond = np.log2(np.maximum(np.asarray(horizon, dtype=np.float64), 1.0))
        if self.reason:
            return np.full(beyond.shape, np.nan)
        doubling = self.scale if np.isnan(self.doubling) else self.doubling
        near = float(t_quantile(level, self.groups + 1)) * self.unit
        far = float(norm.ppf((1 + level) / 2)) * doubling * beyond
        return np.asarray(self.factor * np.hypot(near * np.sqrt(1 + np.asarray(leverage)), far))


def error_model(left_out: tuple[LeftOut, ...], doubled: tuple[LeftOut, ...]) -> ErrorModel:
    """Sum up the tables of errors.

    Args:
        left_out: the leave-one-curve-out table.
        doubled: forecasts of curves over twice the horizon of the fit.

    Returns:
        The model; without an interval where fewer than three groups were left out.
    """
    groups = {row.group for row in left_out}
    reason = ""
    if len(groups) < LEAST:
        reason = (
            f"an interval needs at least {LEAST} independent curves to leave out; "
            f"there are {len(groups)}"
        )
    # Points of one law are the units of its theory; only curves needed a measured factor.
    factor = 1.0 if any(row.pointwise for row in left_out) else CALIBRATION
    scaled = [_standardized(row, len(groups)) for row in left_out]
    unit = float(np.sqrt(np.mean(np.square(scaled)))) if scaled else float("nan")
    return ErrorModel(_rms(left_out), len(groups), _rms(doubled), unit, factor, reason)


# A left-out error in units of what its distance from the fit lets expect.
def _standardized(row: LeftOut, groups: int) -> float:
    error = row.rms if row.pointwise else row.final
    leverage = 1 / groups if np.isnan(row.leverage) else min(row.leverage, FARTHEST)
    return float(error / np.sqrt(1 + leverage))


def _rms(rows: tuple[LeftOut, ...]) -> float:
    return float(np.sqrt(np.mean([row.error**2 for row in rows]))) if rows else float("nan")
