"""Verdict: whether a law describes its curves, and whether its forecasts are usable."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.backtest import Backtest, neighbor_noise
from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.law import CLIPPED, Law
from lossatlas.forecast.laws.baselines import Baseline
from lossatlas.text import number, percent, share_text

Floats = NDArray[np.float64]

# Forecasts are called usable where a fit to the first half forecast the second half so well
# (root mean square log error), and this much better than a loss that stays where it was.
_MAX_MISS = 0.04
USABLE, OVER_UNCHANGED = float(np.log1p(_MAX_MISS)), 0.5
_LIMIT = f"{100 * _MAX_MISS:g} %"
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
    if isinstance(law, Baseline):
        return _judge_baseline(error, bound)
    failed, why = _undescribed(law, values, curves)
    if failed:
        return Verdict(False, False, error, bound, why, failed)
    if not tests:
        why = "the log is too short to forecast its second half from the first"
        return Verdict(True, None, error, bound, why)
    if not is_checkable(tests):
        return Verdict(True, None, error, bound, (
            "in the second half of the log the loss falls by no more than its noise"
        ))  # fmt: skip
    usable, why = _usable(error, bound, _rms([test.unchanged for test in tests]))
    return Verdict(True, usable, error, bound, why)


# Whether a backtest is passed, and by how much.
def _usable(error: float, bound: bool, unchanged: float) -> tuple[bool, str]:
    said = _missed_by(error, bound)
    if bound or error > USABLE:
        return False, f"{said}, more than the allowed {_LIMIT}"
    if error > OVER_UNCHANGED * unchanged:
        return False, (
            f"{said}, and the forecast that the loss does not change misses it by "
            f"{off_by(unchanged)}: a law must halve that"
        )
    return True, f"{said} (at most {_LIMIT} is allowed)"


def is_checkable(tests: Sequence[Backtest]) -> bool:
    """Whether the loss falls in the second halves, so that a forecast of it can be checked."""
    return bool(tests) and sum(t.fall for t in tests) / np.sqrt(len(tests)) >= FALLS


# A simple forecast describes no past, and its interval is as wide as its past errors.
def _judge_baseline(error: float, bound: bool) -> Verdict:
    if np.isnan(error):
        why = "the log is too short to forecast its second half from the first"
        return Verdict(True, None, error, bound, why)
    return Verdict(True, error <= USABLE and not bound, error, bound, _missed_by(error, bound))


def _missed_by(error: float, bound: bool) -> str:
    return (
        f"a fit to the first half of the log misses the second half by {off_by(error, bound)}"
    )


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
    noise = "" if law.pointwise else ", noise left aside"
    if not share > 0:
        return len(failed), f"it comes no closer to the losses{whose} than their mean does"
    return len(failed), (
        f"it accounts for {percent(share)} of how the loss{whose} varies{noise}, and "
        f"{100 * least:g} % are required"
    )


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
        share = float(np.expm1(size))
        return f"{more}{share_text(share) if share < 0.1 else percent(share)}"
    return f"{more}a factor of {number(float(np.exp(size)), 2)}"


def signed(error: float) -> str:
    """A log error of one forecast with its direction."""
    side = "high" if error > 0 else "low"
    return f"{off_by(error, error <= np.log(CLIPPED))} too {side}"


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else float("nan")
