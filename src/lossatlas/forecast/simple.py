"""What a simple forecast says of itself: the answer where no law passes its checks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lossatlas.forecast.curve import Curve
from lossatlas.forecast.laws.baselines import LastLevel
from lossatlas.forecast.logged_schedule import logged_schedule, updates_of
from lossatlas.forecast.recent import BLOCKS, recent
from lossatlas.result import Estimate, Figure, chart_of
from lossatlas.text import as_sentence, percent

if TYPE_CHECKING:
    from lossatlas.forecast.prediction import Prediction
    from lossatlas.forecast.result import Fit

POINTS = 200  # of the picture of a forecast
_CHANGE = "change over the last third"
NO_RATE = 1e-2  # a rate below this share of the peak has ended
BASIS = (
    "The interval comes from the log itself: at earlier updates the same method forecast as "
    "many times ahead, and its errors there set the width."
)
TOO_FAR = "the log is too short to check a forecast so far ahead"


def end_of(curve: Curve) -> int:
    """The update to forecast: the end of the schedule, or twice the log where that is past."""
    plan = logged_schedule(curve)
    if plan is None or plan.decay is None or plan.has_ended or plan.rivals:
        return 2 * max(updates_of(curve), plan.steps if plan and not plan.rivals else 0)
    return plan.steps


def ahead(fit: "Fit") -> "Prediction":
    """The forecast of the one run, from the second half of its log on."""
    (curve,) = fit.curves
    begin, end = int(curve.step[-1]) // 2, end_of(curve)
    return fit.predict(steps=np.unique(np.linspace(max(begin, 1), end, POINTS).round()))


def simple_headline(fit: "Fit") -> str:
    """The forecast in one sentence."""
    return f"{ahead(fit).sentences()[0][:-1]}, if {assumption(fit)}."


def simple_estimates(fit: "Fit") -> tuple[Estimate, ...]:
    """The forecast, the typical loss at the end of the log, and the change with updates."""
    (curve,) = fit.curves
    told, now = ahead(fit), recent(curve)
    final = replace(told.estimates()[0], name=f"loss at update {told.step[-1]:,}")
    why = "the median of losses that follow each other"
    change, why_not = 100 * now.change, "too few losses are logged"
    return (
        final,
        Estimate(now.level, why_no_error=why, name="loss in the last quarter of the log"),
        Estimate(change, 100 * now.stderr, samples=BLOCKS - 1, name=_CHANGE, unit="%")
        if np.isfinite(now.stderr)
        else Estimate(change, why_no_error=why_not, name=_CHANGE, unit="%"),
    )


def simple_figures(fit: "Fit") -> tuple[Figure, ...]:
    """The log with the forecast and its interval."""
    told = ahead(fit)
    title = f"{told.title}, {'level' if isinstance(fit.law, LastLevel) else 'trend'} continued"
    return (chart_of("curves", title, told.chart, alt=simple_headline(fit)),)


def assumption(fit: "Fit") -> str:
    """What a simple forecast takes for granted; a clause."""
    if isinstance(fit.law, LastLevel):
        return "it stays at the level of the last quarter of the log"
    change = fit.parameters["ratio"] - 1
    verb = "falls" if change < 0 else "rises"
    return (
        f"the trend of the last half of the log goes on (the loss {verb} by "
        f"{percent(abs(change))} when the updates double)"
    )


def simple_sentences(fit: "Fit") -> Iterator[str]:
    """What the loss does now, how the forecast was checked, and what it leaves out."""
    (curve,) = fit.curves
    yield as_sentence(str(recent(curve)))
    if fit.backtests:
        yield as_sentence(f"Check of this simple forecast: {fit.verdict.reason}")
    reason = ahead(fit).reason
    yield as_sentence(f"It has no interval: {reason}") if reason else BASIS
    note = rate_note(curve)
    if note:
        yield as_sentence(note)
    yield advice(curve)


def rate_note(curve: Curve) -> str:
    """What a forecast that knows no learning rate leaves out; empty where that is nothing."""
    if curve.lr is None:
        return "no learning rate was logged: the forecast holds if the rate goes on as it did"
    rates, last = curve.lr, float(curve.lr[int(curve.step[-1]) - 1])
    peak = float(rates.max())
    if last <= NO_RATE * peak:
        return (
            "the learning rate has fallen to zero, so that this run is over: a new run with a "
            "longer schedule may end lower, which this log alone cannot tell"
        )
    if last < 0.99 * peak:
        return (
            "the forecast knows no learning rate: what a further fall of the rate gains is "
            "left out, and the loss may end lower"
        )
    return "the forecast knows no learning rate: it holds while the rate stays as it is"


def advice(curve: Curve) -> str:
    """The one next step that helps."""
    now = recent(curve)
    if now.kind == "rises":
        return f"What helps: stop near update {now.lowest:,}, where the loss was lowest."
    if now.kind == "flat":
        return (
            "What helps: not more updates of this run, whose loss is flat, but a run with "
            "another learning rate, schedule or model."
        )
    if now.kind == "unclear":
        return (
            "What helps: a longer log, or one with less noise, as the mean loss of every 10 "
            "updates or a larger batch."
        )
    if now.kind == "short":
        return "What helps: log the loss more often; 100 losses or more are good."
    return (
        "What helps: three runs or more with different schedules or lengths. A law fitted to "
        "them together may forecast other schedules, with an interval from runs left out."
    )
