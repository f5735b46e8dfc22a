"""What if I decay now: the end of a run under way, for several starts of the cooldown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_positive
from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.law import Law
from lossatlas.forecast.numbers import check_length
from lossatlas.forecast.prediction import Prediction
from lossatlas.forecast.schedules import wsd
from lossatlas.forecast.sums import log_error

Floats = NDArray[np.float64]

RECENT = 0.1  # the share of a run's points that shows where it stands against the law


@dataclass(frozen=True, eq=False)
class Decay:
    """One answer.

    Attributes:
        decay_at: the step at which the cooldown begins.
        steps: the last step.
        loss: the final loss.
        lower: lower end of its interval; NaN where there is none.
        upper: upper end.
        stay: the loss at the same step without a cooldown.
        rates: the schedule.
    """

    decay_at: int
    steps: int
    loss: float
    lower: float
    upper: float
    stay: float
    rates: Floats

    @property
    def gain(self) -> float:
        """What the cooldown wins by its end."""
        return self.stay - self.loss


@dataclass(frozen=True, eq=False)
class WhatIf:
    """The end of a run under way, for each start of the cooldown.

    Attributes:
        rows: one answer a start.
        offset: by how much (in log loss) the run has lately lain above the law; the answers are
            shifted by it.
        level: the share of losses that the intervals should cover.
        reason: why there is no interval; empty where there is one.
        warnings: what to know before believing it.
    """

    rows: tuple[Decay, ...]
    offset: float
    level: float
    reason: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a run under way.

    Attributes:
        curve: the run so far.
        length: of the cooldown: a share of its start if < 1, else updates.
        shape: as for `schedules.wsd`.
        min_ratio: the last rate as a share of the present one.
        interval: the share of losses to cover.
    """

    curve: Curve
    length: float
    shape: str
    min_ratio: float
    interval: float


def answer(
    law: Law,
    values: Floats,
    predict: Callable[..., Prediction],
    question: Question,
    starts: Sequence[int],
) -> WhatIf:
    """The rows."""
    curve, level = question.curve, question.interval
    if curve.rates is None:
        raise ArgumentError("`curve` must have rates to ask what a decay would do.")
    past = curve.select(curve.step > curve.inputs.warmup)
    offset = offset_of(-log_error(law.predict(values, past.inputs), past.loss))
    shift = float(np.exp(offset))
    rows, reason = [], ""
    warnings: dict[str, None] = {}
    for start in starts:
        whole = continued(curve.rates, question, start)
        hold = np.append(whole[:start], np.full(whole.size - start, whole[start - 1]))
        told = predict(whole, steps=[whole.size], interval=level)
        stay = predict(hold, steps=[whole.size], interval=level)
        loss, lower, upper = (shift * value for value in told.final)
        rows.append(Decay(start, whole.size, loss, lower, upper, shift * stay.final[0], whole))
        warnings |= dict.fromkeys(told.warnings)
        reason = told.reason
    return WhatIf(tuple(rows), offset, level, reason, tuple(warnings))


def decay_starts(curve: Curve, decay_at: int | Sequence[int]) -> list[int]:
    """The starts as a list, none of them in the past."""
    starts = np.atleast_1d(as_float_array("decay_at", decay_at))
    if not starts.size or starts.ndim != 1:
        raise ArgumentError("`decay_at` must name at least one step, in one dimension.")
    for start in starts:
        if not np.isfinite(start) or start % 1 or start < 1:
            raise ArgumentError(f"`decay_at` must be a whole number >= 1; got {start:g}.")
        check_length("decay_at", float(start))
        if start < curve.step[-1]:
            raise ArgumentError(
                f"`decay_at` must not lie before the last step of the curve "
                f"({curve.step[-1]}); got {start:.0f}; cut the curve with `until` to ask of "
                "the past."
            )
    return [int(start) for start in starts]


def continued(rates: Floats, question: Question, start: int) -> Floats:
    """A schedule that goes on at its present rate and then decays."""
    length, last = question.length, int(question.curve.step[-1])
    check_positive("length", length)
    check_length("length", float(length))
    steps = max(round(length * start) if length < 1 else int(length), 2)
    now = float(rates[last - 1])
    decay = wsd(steps, now, steps, question.shape, min_ratio=question.min_ratio)
    return np.concatenate([rates[:last], np.full(start - last, now), decay])


def offset_of(log_residual: Floats) -> float:
    """Where a run stands against the law: the median of its latest residuals."""
    recent = max(3, round(RECENT * log_residual.size))
    return float(np.median(log_residual[-recent:]))
