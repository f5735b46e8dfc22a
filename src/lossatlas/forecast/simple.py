"""What a simple forecast says of itself: the answer where no law passes its checks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve
from lossatlas.forecast.laws.baselines import LastLevel
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.recent import BLOCKS, recent
from lossatlas.result import Estimate, Figure, chart_of
from lossatlas.text import as_sentence, percent

if TYPE_CHECKING:
    from lossatlas.forecast.prediction import Prediction
    from lossatlas.forecast.result import Fit

POINTS = 200  # of the picture of a forecast
_CHANGE = "change over the last third"
BASIS = (
    "The interval comes from the log itself: the same method was applied to its earlier parts, "
    "each forecast over the same multiple of its updates, and the errors set the width."
)
TOO_FAR = "the log is too short to check a forecast so far ahead"


def end_of(curve: Curve) -> int:
    """The update to forecast: the end of the schedule, or twice the log where none shows."""
    return own_schedule(curve).question


def first_update(fit: "Fit") -> int:
    """The first update that a simple forecast describes: where it was fitted."""
    return int(fit.law.recent(fit.curves[0]).step[0])


def ahead(fit: "Fit") -> "Prediction":
    """The forecast of the one run, from where it was fitted on."""
    (curve,) = fit.curves
    return fit.predict(steps=steps_until(fit, end_of(curve)))


def steps_until(fit: "Fit", last: int) -> NDArray[np.float64]:
    """The updates of a picture, from where a forecast was fitted on to the last one."""
    begin = min(first_update(fit), last)
    return np.unique(np.linspace(begin, last, min(POINTS, last)).round())


def simple_headline(fit: "Fit") -> str:
    """The forecast in one sentence."""
    own, expected = own_schedule(fit.curves[0]), ahead(fit).final_sentence[:-1]
    if own.is_over:
        return f"This run is over, its schedule ends at update {own.end:,}. {expected}."
    return f"{expected}, if {assumption(fit)}."


def simple_estimates(fit: "Fit") -> tuple[Estimate, ...]:
    """The forecast, the typical loss at the end of the log, and the change with updates."""
    (curve,) = fit.curves
    prediction, now = ahead(fit), recent(curve)
    final = replace(prediction.estimates()[0], name=f"loss at update {prediction.step[-1]:,}")
    why = "losses of one run are not independent of each other"
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
    prediction = ahead(fit)
    continued = "level" if isinstance(fit.law, LastLevel) else "trend"
    title = f"{prediction.title}, {continued} continued"
    return (chart_of("curves", title, prediction.chart, alt=simple_headline(fit)),)


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
    yield as_sentence(own_schedule(curve).condition)
    yield advice(fit)
    yield fit.advice().other_schedules


def advice(fit: "Fit") -> str:
    """The one next step that helps with the fitted runs."""
    (curve,) = fit.curves
    now, next_step = recent(curve), fit.advice().next_step
    if next_step:
        return next_step
    if now.kind == "rises":
        return f"What helps: stop near update {now.lowest:,}, where the loss was lowest."
    if own_schedule(curve).is_over:
        return "What helps: not more updates of this run, which is over, but another run."
    return _MORE_OF_THIS[now.kind]


_MORE_OF_THIS = {
    "unclear": (
        "What helps: a longer log, or one with less noise, as the mean loss of every 10 "
        "updates or a larger batch."
    ),
    "short": "What helps: log the loss more often; 100 losses or more are good.",
    "flat": (
        "What helps: not more updates of this run, whose loss is flat, but a run with another "
        "learning rate, schedule or model."
    ),
    "falls": (
        "What helps: more updates of this run. The interval is narrower where the forecast "
        "reaches over fewer times the log."
    ),
}
