"""Verdict: whether a law describes its curves, and whether its forecasts are usable."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.backtest import Backtest, neighbor_noise
from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.law import CLIPPED, Law
from lossatlas.text import number, percent, share_text

Floats = NDArray[np.float64]

# Forecasts are called usable where a fit to the first half forecast the second half so well
# (root mean square log error), and this much better than a loss that stays where it was.
USABLE, OVER_UNCHANGED = 0.04, 0.5
_LIMIT = f"{100 * USABLE:g} %"
# Standard errors by which the loss must fall for a backtest to say anything.
FALLS = 4.0
# The share of the variance beyond its noise that a law must explain to describe a curve; of
# single points, whose noise is not known, the share of all variance.
DESCRIBES, DESCRIBES_POINTS = 0.95, 0.5
# A variance of noise from n differences of neighbors has a relative variance of 3 / n; three
# standard errors of it are no failure of a law.
SLACK = 27.0


@dataclass(frozen=True)
class Verdict:
    """What a fit is good for.

    Attributes:
        describes: whether the law describes every curve.
        usable: whether forecasts of the same schedule are usable; None where that could not be
            checked.
        error: root mean square log error of the second halves; NaN without a backtest.
        is_bound: whether `error` is only a lower bound.
        reason: why the law does not describe the curves, or its forecasts are not called usable
            or how they were checked; a clause.
        failed: curves that the law does not describe.
    """

    describes: bool
    usable: bool | None
    error: float
    is_bound: bool
    reason: str
    failed: int = 0


def judge(
    law: Law, values: Floats, curves: Sequence[Curve], tests: Sequence[Backtest]
) -> Verdict:
    """Judge a fit by what it explains and by its backtest."""
    error = _rms([test.error for test in tests])
    bound = any(test.clipped for test in tests)
    failed, why = _undescribed(law, values, curves)
    if failed:
        return Verdict(False, False, error, bound, why, failed)
    if not tests:
        why = "their second halves are too short, or were not forecast from the first"
        return Verdict(True, None, error, bound, why)
    fall = sum(test.fall for test in tests) / np.sqrt(len(tests))
    if fall < FALLS:
        return Verdict(True, None, error, bound, (
            "in the second half the loss falls by no more than its noise"
        ))  # fmt: skip
    unchanged = _rms([test.unchanged for test in tests])
    said = f"a fit to the first half forecasts the second half {off_by(error, bound)} off"
    if bound or error > USABLE:
        return Verdict(True, False, error, bound, f"{said}, beyond the limit of {_LIMIT}")
    if error > OVER_UNCHANGED * unchanged:
        return Verdict(True, False, error, bound, (
            f"{said}, and a loss that stays where it was {off_by(unchanged)}: it must be twice "
            "as good"
        ))  # fmt: skip
    return Verdict(True, True, error, bound, f"{said}, within the limit of {_LIMIT}")


# How many curves the law does not describe, and why not the worst of them.
def _undescribed(law: Law, values: Floats, curves: Sequence[Curve]) -> tuple[int, str]:
    rows = [
        (name, curve, explained(law, values, curve))
        for name, curve in zip(labels(curves), curves, strict=True)
    ]
    least = DESCRIBES_POINTS if law.pointwise else DESCRIBES
    failed = [(name, curve, share) for name, curve, share in rows if not share >= least]
    if not failed:
        return 0, ""
    name, curve, share = min(failed, key=lambda row: row[2])
    whose = "" if len(curves) == 1 else f" of '{name}'"
    if not law.pointwise and _rises(curve):
        why = f"the loss{whose} rises, and laws describe losses that fall (is it an accuracy?)"
        return len(failed), why
    noise = "" if law.pointwise else " that is not noise"
    how_much = f"{percent(share)}, less than {100 * least:g} %," if share > 0 else "none"
    return len(failed), f"it explains {how_much} of the variance{whose}{noise}"


def explained(law: Law, values: Floats, curve: Curve) -> float:
    """The share of the variance of a curve, beyond its noise, that a law explains."""
    residual = law.predict(values, curve.inputs) - curve.loss
    noise = 0.0 if law.pointwise else min(_noise(residual), _noise(curve.loss))
    trend = float(curve.loss.var()) - noise
    # A loss without a trend has nothing that a law could fail to explain.
    slack = noise * float(np.sqrt(SLACK / curve.step.size))
    if trend <= slack:
        return 1.0
    return float(1 - max(float((residual**2).mean()) - noise - slack, 0.0) / trend)


def _noise(values: Floats) -> float:
    return float(np.mean(np.diff(values) ** 2) / 2) if values.size > 2 else 0.0


# Whether the last third lies above the first by more than noise.
def _rises(curve: Curve) -> bool:
    third = max(curve.step.size // 3, 1)
    log = np.log(curve.loss)
    rise = float(np.median(log[-third:]) - np.median(log[:third]))
    return bool(rise > FALLS * 1.25 * neighbor_noise(log) * np.sqrt(2 / third))


def off_by(error: float, is_bound: bool = False) -> str:
    """A log error in words: percent while it is small, else a factor."""
    size = abs(error)
    more = "more than " if is_bound else ""
    if not np.isfinite(size):
        return "an unknown amount"
    if size < np.log(2):
        return f"{more}{share_text(float(np.expm1(size)))}"
    return f"{more}a factor of {number(float(np.exp(size)), 2)}"


def signed(error: float) -> str:
    """A log error of one forecast with its direction."""
    side = "high" if error > 0 else "low"
    return f"{off_by(error, error <= np.log(CLIPPED))} too {side}"


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else float("nan")
