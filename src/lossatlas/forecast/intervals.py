"""Intervals from errors that were seen: curves left out, and horizons doubled.

The residuals of a fit are no yardstick: resampling them covers 0 to 17 % of final losses where
90 % was promised, because the law, not the noise, is wrong. A left-out curve shows that error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Floats = NDArray[np.float64]

LEAST = 3  # left-out groups without which there is no interval


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
    """

    name: str
    group: str
    steps: int
    horizon: float
    final: float
    rms: float
    mae: float
    spikes: int = 0

    @property
    def error(self) -> float:
        """The error that counts: the final one, or the typical one where that is larger.

        A final error can be small by luck; that of the whole curve hardly.
        """
        return max(abs(self.final), self.rms)


@dataclass(frozen=True)
class ErrorModel:
    """How wrong the law has been, on a logarithmic scale.

    Attributes:
        scale: root mean square error of the left-out groups.
        groups: how many there were.
        doubling: root mean square error of forecasts over twice the horizon that was fitted;
            NaN where it could not be measured.
        reason: why there is no interval, in a sentence; empty where there is one.
    """

    scale: float
    groups: int
    doubling: float
    reason: str = ""

    def half_width(self, level: float, horizon: Floats | float) -> Floats:
        """Half the interval of the log loss.

        Student's t with as many degrees of freedom as groups, for their number is small; beyond
        the longest curve the error of a doubling is added once for each doubling.

        Args:
            level: the share of losses to cover, in (0, 1).
            horizon: steps over the longest training curve's.

        Returns:
            Half widths, NaN where there is no interval.
        """
        beyond = np.log2(np.maximum(np.asarray(horizon, dtype=np.float64), 1.0))
        if self.reason:
            return np.full(beyond.shape, np.nan)
        tail = (1 + level) / 2
        near = float(t.ppf(tail, self.groups)) * self.scale * np.sqrt(1 + 1 / self.groups)
        doubling = self.scale if np.isnan(self.doubling) else self.doubling
        return np.asarray(np.hypot(near, norm.ppf(tail) * doubling * beyond))


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
    return ErrorModel(_rms(left_out), len(groups), _rms(doubled), reason)


def _rms(rows: tuple[LeftOut, ...]) -> float:
    return float(np.sqrt(np.mean([row.error**2 for row in rows]))) if rows else float("nan")
