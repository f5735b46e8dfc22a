"""Backtest: the second half of each curve, forecast by a fit to the first half.

The second half is compared in four blocks of points, by their medians, so that the noise of
single losses hardly counts; beside it stands the forecast that the loss stays where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.law import CLIPPED, Law, log_error
from lossatlas.io.records import record
from lossatlas.robust import GAUSS

Floats = NDArray[np.float64]

BLOCKS = 4  # of the second half
FEWEST_LATE = 2 * BLOCKS  # points of a second half that can be compared
LEVEL_SHARE = 4  # the last quarter of the first half shows where the loss was
_MEDIAN = 1.25  # the standard error of a median over that of a mean


@record
@dataclass(frozen=True)
class Backtest:
    """The second half of one curve against a fit to the first half.

    Attributes:
        name: the curve.
        steps: where the first half ends.
        error: root mean square over the blocks of log forecast over truth.
        unchanged: the same for the forecast that the loss stays where the first half ends.
        fall: by how much the log loss falls from the end of the first half to that of the
            second, in standard errors of its noise; negative where it rises.
        clipped: points whose forecast is below a thousandth of the truth, or negative; `error`
            is a lower bound then.
    """

    name: str
    steps: int
    error: float
    unchanged: float
    fall: float
    clipped: int = 0


def backtests(
    law: Law, values: Floats, curves: Sequence[Curve], half: int
) -> tuple[Backtest, ...]:
    """Judge a fit to the steps up to `half` by what comes after, where that is enough."""
    return tuple(
        _backtest(law, values, curve, name, half)
        for curve, name in zip(curves, labels(curves), strict=True)
        if (curve.step > half).sum() >= FEWEST_LATE
    )


def _backtest(law: Law, values: Floats, curve: Curve, name: str, half: int) -> Backtest:
    late, log = curve.step > half, np.log(curve.loss)
    error = log_error(law.predict(values, curve.inputs), curve.loss)[late]
    before = log[~late][-max(BLOCKS, int((~late).sum()) // LEVEL_SHARE) :]
    after = log[late][-(int(late.sum()) // 2) :]
    level = float(np.median(before))
    scatter = neighbor_noise(np.concatenate([before, log[late]]))
    stderr = _MEDIAN * scatter * np.sqrt(1 / before.size + 1 / after.size)
    return Backtest(
        name, half, _blockwise(error), _blockwise(level - log[late]),
        float((level - np.median(after)) / max(stderr, 1e-12)),
        int((error <= np.log(CLIPPED)).sum()),
    )  # fmt: skip


def _blockwise(error: Floats) -> float:
    medians = [np.median(block) for block in np.array_split(error, BLOCKS)]
    return float(np.sqrt(np.mean(np.square(medians))))


def neighbor_noise(values: Floats) -> float:
    """The standard deviation of the noise around a trend, from differences of neighbors."""
    return float(GAUSS * np.median(np.abs(np.diff(values))) / np.sqrt(2))
