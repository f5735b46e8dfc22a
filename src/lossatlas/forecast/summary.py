"""What a fit says: the forecast, which method it is of and why, the others, its checks."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.ahead import longest, place_of
from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.identifiability import shown_elsewhere
from lossatlas.forecast.laws.baselines import LastLevel, LocalTrend
from lossatlas.forecast.prediction import spans_decades
from lossatlas.forecast.simple import (
    simple_estimates,
    simple_figures,
    simple_headline,
    simple_sentences,
)
from lossatlas.forecast.verdict import off_by, signed
from lossatlas.result import Estimate, Figure, Table, chart_of
from lossatlas.text import as_sentence, count, number, share_text, with_ends

if TYPE_CHECKING:
    from lossatlas.forecast.result import Alternative, Fit
    from lossatlas.plots.chart import Chart, Layer

Floats = NDArray[np.float64]

_OTHERS = (
    " `lossatlas forecast fit` without --law takes a law that passes its checks, or else a "
    "simple forecast."
)
_LOOSE = "Changes of parameters that hardly change the fitted curves"
_SIMPLE = {f"{law.name}()": law.name for law in (LastLevel(), LocalTrend())}


def estimates(fit: "Fit") -> tuple[Estimate, ...]:
    """The forecast, the error on what the fit has not seen, and the parameters."""
    if fit.curves and fit.is_simple:
        return simple_estimates(fit)
    seen = "it describes the fitted curves and says nothing of others"
    parameters = [_parameter(fit, name) for name in fit.law.parameters]
    if fit.curves:
        parameters = [replace(each, is_minor=True) for each in parameters]
    return (
        *_forecasts(fit),
        *([fit.errors.estimate()] if fit.left_out else []),
        *parameters,
        Estimate(fit.r2, why_no_error=seen, name="R2", is_minor=True),
        Estimate(fit.mae, why_no_error=seen, name="mean absolute error", is_minor=True),
    )


# The forecast that is used, what its check found, and the better simple forecast.
def _forecasts(fit: "Fit") -> Iterator[Estimate]:
    prediction, error = fit.ahead, fit.verdict.error
    if prediction is not None:
        guess = " (a guess)" * bool(prediction.guess)
        yield replace(
            prediction.estimates()[0], name=f"loss at update {prediction.step[-1]:,}{guess}"
        )
    if fit.rests_on_backtest and np.isfinite(error):
        yield Estimate(
            float(f"{100 * np.expm1(error):.2g}"), why_no_error="one check a run", unit="%",
            name="the check: second half missed by",
        )  # fmt: skip
    simple = _simple_alternative(fit)
    if simple is not None:
        yield Estimate(
            simple.loss, why_no_error=f"90 % interval {_ends(simple)}",
            name=f"the same by {_SIMPLE[simple.law]}",
        )  # fmt: skip


# The better simple forecast of the same update, where it has an interval.
def _simple_alternative(fit: "Fit") -> "Alternative | None":
    rows = [row for row in fit.alternatives if row.law in _SIMPLE and np.isfinite(row.upper)]
    return None if fit.is_simple or fit.ahead is None else next(iter(rows), None)


def _ends(row: "Alternative") -> str:
    return with_ends(row.loss, row.lower, row.upper)[1]


def _parameter(fit: "Fit", name: str) -> Estimate:
    rows = {row.name: row for row in fit.parameter_errors}
    value = fit.parameters[name]
    if name not in rows:
        return Estimate(value, why_no_error="the fit has no curves", name=name)
    row = rows[name]
    if row.reason:
        return Estimate(value, why_no_error=row.reason, name=name)
    # To first order; `parameter_intervals` keeps the logarithm.
    return Estimate(
        value, value * row.stderr, samples=round(row.degrees) + 1, name=name,
        meaning=f"parameter of {fit.law.name}",
    )  # fmt: skip


def headline(fit: "Fit") -> str:
    """The loss at the end of the longest run, or why there is no such forecast."""
    verdict, prediction = fit.verdict, fit.ahead
    if fit.curves and fit.is_simple:
        return simple_headline(fit)
    if fit.curves and not verdict.describes:
        return _undescribed(fit)
    if verdict.usable is False and fit.rests_on_backtest:
        return _checked(fit)
    if prediction is not None:
        said = f"{prediction.final_sentence[:-1]} ({place_of(fit, prediction)})."
        checked = verdict.usable or not fit.rests_on_backtest
        return said if checked else f"Unchecked: {said[0].lower()}{said[1:]}"
    if fit.is_of_one_schedule:
        return _one_schedule(fit)
    return _without_interval(fit) if fit.errors.reason else _backtest(fit)


def sentences(fit: "Fit") -> tuple[str, ...]:
    """Which forecast is used and why, how it was checked, and what to know first."""
    elsewhere = shown_elsewhere(fit.law, fit.flat, is_of_one_schedule=fit.is_of_one_schedule)
    said = [warning for warning in fit.warnings if warning not in elsewhere]
    # That no law is used, and why, comes before anything else.
    opening = int(fit.began_with is not None)
    first, rest = said[:opening], said[opening:]
    verdicts = simple_sentences(fit) if fit.curves and fit.is_simple else _verdicts(fit)
    return (*map(as_sentence, first), *verdicts, *map(as_sentence, said_once(rest)))


def said_once(warnings: Sequence[str]) -> list[str]:
    """Warnings without those that differ from an earlier one in a name or a number only."""
    alike: dict[str, list[str]] = {}
    for line in warnings:
        alike.setdefault(re.sub(r"^curve '.*?': |\d+", "", line), []).append(line)
    more = "; the same holds for {} more"
    return [
        first + (more.format(len(others)) if others else "")
        for first, *others in alike.values()
    ]


def _verdicts(fit: "Fit") -> Iterator[str]:
    errors, verdict, prediction = fit.errors, fit.verdict, fit.ahead
    if prediction is not None and prediction.guess:
        yield as_sentence(f"It is a guess because {prediction.guess}")
    if fit.curves and not verdict.describes:
        yield _undescribed(fit)
    is_checked = bool(fit.backtests) and verdict.describes and fit.rests_on_backtest
    if is_checked:
        yield from _used(fit)
    if np.isfinite(errors.scale):
        yield _backtest(fit)
    if errors.reason:
        yield _without_interval(fit)
    if np.isfinite(errors.doubling) and not is_checked:
        yield _doubled(fit)
    yield from _next_best(fit)
    if fit.curves and verdict.describes and fit.r2 > 0:
        fitted = count(len(fit.curves), "fitted curve")
        yield f"{fit.law.name} explains {share_text(fit.r2)} of the variance of {fitted}."


# Which forecast to use, and why: the check, and what a simple forecast did in the same check.
def _used(fit: "Fit") -> Iterator[str]:
    yield _checked(fit)
    simple = _simple_alternative(fit)
    if simple is None or fit.verdict.usable is not True:
        return
    name = _SIMPLE[simple.law]
    yield (
        f"Use the forecast of {fit.law.name}, which passed this check. {name}, a simple "
        f"forecast without the learning rate, misses the second half by {simple.off} and "
        f"expects {number(simple.loss)}, 90 % interval {_ends(simple)}: use that interval "
        f"where you need one."
    )


def _next_best(fit: "Fit") -> Iterator[str]:
    rows = [row for row in fit.alternatives if row.law not in _SIMPLE]
    # The first is the one that is used, and where none is, not always the best.
    if fit.is_simple or len(rows) < 2 or rows[0].error > rows[1].error:
        return
    laws, second = count(len(rows), "law"), rows[1]
    unseen = "left-out curves" if fit.left_out else "the second half"
    yield (
        f"Of {laws} compared it forecasts {unseen} best; {second.law} comes next: off by "
        f"{second.off}."
        if np.isfinite(second.error)
        else f"Of {laws} compared only this one could be fitted and checked."
    )


def _undescribed(fit: "Fit") -> str:
    failed, runs = fit.verdict.failed, len(fit.curves)
    which = "the curve" if runs == 1 else f"{failed} of {runs} curves"
    return (
        f"{fit.law.name} does not fit {which}: {fit.verdict.reason}. Do not use its "
        f"forecasts.{_others(fit)}"
    )


# Others are worth a try where only this law was tried.
def _others(fit: "Fit") -> str:
    return "" if fit.alternatives else _OTHERS


def _checked(fit: "Fit") -> str:
    verdict = fit.verdict
    if verdict.usable is False:
        return f"Forecasts are not usable: {verdict.reason}.{_others(fit)}"
    if fit.is_of_one_schedule:
        return _one_schedule(fit)
    usable = "usable" if verdict.usable else "unchecked"
    return f"Forecasts of the same schedule are {usable}: {verdict.reason}."


def _one_schedule(fit: "Fit") -> str:
    total, runs = len(fit.law.parameters), len(fit.curves)
    fixed = sum(not row.reason for row in fit.parameter_errors)
    usable = "usable" if fit.verdict.usable else "unchecked"
    said = (
        f"Forecasts of the same schedule are {usable}: {fit.verdict.reason}. Those of other "
        "schedules are a guess until a run with another schedule is added"
    )
    if fixed == total:
        return f"{said}."
    fixes = "one run determines" if runs == 1 else f"{runs} runs of one schedule determine"
    return f"{said}: {fixes} {fixed or 'none'} of the {total} parameters."


# Both stand among the sentences as well: what is shown of both is shown once.
def _without_interval(fit: "Fit") -> str:
    return as_sentence(f"Forecasts have no interval: {fit.errors.reason}")


def _backtest(fit: "Fit") -> str:
    groups, off = fit.errors.groups, _of_the_loss(off_by(fit.errors.scale, fit.errors.is_bound))
    if any(row.pointwise for row in fit.left_out):
        parts = f"each of {groups} parts of the points"
    elif groups == len(fit.left_out):
        parts = f"each of {groups} curves"
    else:
        parts = f"each of {groups} groups of {len(fit.left_out)} curves"
    return (
        f"Backtest: {parts} was held back and forecast by a fit to the others; these "
        f"forecasts are off by {off} (root mean square)."
    )


def _doubled(fit: "Fit") -> str:
    half, runs = int(longest(fit).step[-1]) // 2, len(fit.doubled)
    off = _of_the_loss(off_by(fit.errors.doubling, fit.errors.doubling_is_bound))
    return (
        f"Backtest of longer runs: a fit to the updates up to {half:,} alone forecasts "
        f"{count(runs, 'curve')} to the end; it is off by {off}."
    )


def _of_the_loss(error: str) -> str:
    return f"{error} of the loss" if error.endswith("%") else error


def tables(fit: "Fit") -> tuple[Table, ...]:
    """Forecasts compared, curves forecast by a fit to the others, the parameters."""
    left_out = tuple(
        (row.name, signed(row.final), off_by(row.rms, row.clipped > 0), f"{row.horizon:.3g}")
        for row in fit.left_out
    )
    loose = tuple(tuple(str(change).split(": ", 1)) for change in fit.flat)
    left_head = ("curve", "error at the end", "along the curve", "steps over fitted ones")
    parameters = [_parameter(fit, name) for name in fit.law.parameters]
    rows = tuple(
        (each.name, each.texts[0], each.texts[1] or each.reason) for each in parameters
    )
    made = (
        _compared(fit),
        Table("Forecasts of curves left out", left_head, left_out, is_minor=True),
        Table(
            f"Parameters of {fit.law.name}", ("parameter", "value", "standard error"),
            rows if fit.curves and not fit.is_simple else (), is_minor=True,
        ),
        Table(_LOOSE, ("change of parameters", "one standard deviation"), loose, is_minor=True),
    )  # fmt: skip
    return tuple(table for table in made if table.rows)


# What each method expects of the same update, the one that is used first.
def _compared(fit: "Fit") -> Table:
    at = "" if fit.ahead is None else f" at update {fit.ahead.step[-1]:,}"
    head = ("forecast by", f"loss{at}", "90 % interval", error_head(fit), "note")
    rows = [
        (
            f"{row.law} (used)" if i == 0 and not fit.distrust else row.law,
            number(row.loss) if np.isfinite(row.loss) else "",
            _ends(row) if np.isfinite(row.upper) else "",
            row.off, row.note,
        )
        for i, row in enumerate(fit.alternatives)
    ]  # fmt: skip
    keep = [i for i in range(len(head)) if not rows or any(row[i] for row in rows)]
    pick = tuple(head[i] for i in keep)
    return Table("Forecasts compared", pick, tuple(tuple(row[i] for i in keep) for row in rows))


def error_head(fit: "Fit") -> str:
    """What the errors of compared laws are errors on."""
    return f"error on {'left-out curves' if fit.left_out else 'the second half'}"


def figures(fit: "Fit") -> tuple[Figure, ...]:
    """The curves with the law and its forecast, and the residuals."""
    if not fit.curves:
        return ()
    if fit.is_simple:
        return simple_figures(fit)
    name, prediction = fit.law.name, fit.ahead
    fitted = f"{count(len(fit.curves), 'loss curve')} and the fitted law."
    alt = fitted if prediction is None else f"{fitted} {prediction.final_sentence}"
    residuals = f"Residuals of {name} in percent of the loss."
    return (
        chart_of("curves", _title(fit), partial(_curves_chart, fit), alt=alt),
        chart_of("residuals", f"{name}: residuals", partial(_residuals_chart, fit),
                 alt=residuals),
    )  # fmt: skip


def _title(fit: "Fit") -> str:
    if fit.ahead is not None:
        return f"{fit.ahead.title}, {fit.law.name}"
    return f"{fit.law.name}: measured points and the fitted law"


def _curves_chart(fit: "Fit") -> "Chart":
    from lossatlas.plots import chart, style

    layers: list[Layer] = []
    for i, (run, name, law) in enumerate(_predicted(fit)):
        color, dash = style.hue(i)
        layers += [
            chart.dots(run.step, run.loss, color=color),
            chart.curve(run.step, law, name, color, dash),
        ]
    losses = [run.loss for run in fit.curves]
    axis = chart.Axis("loss", is_log=spans_decades(losses))
    ahead = _ahead_layers(fit)
    layers = [*ahead[:-1], *layers, *ahead[-1:]]
    return chart.Chart(_title(fit), chart.Axis("update"), axis, tuple(layers))


# The interval and the line of the forecast from the end of the longest run on.
def _ahead_layers(fit: "Fit") -> "list[Layer]":
    from lossatlas.plots import chart, style

    prediction = fit.ahead
    late = None if prediction is None else prediction.step >= longest(fit).step[-1]
    if prediction is None or late is None or late.sum() < 2:
        return []
    name = "guess" if prediction.guess else "forecast"
    layers: list[Layer] = [
        chart.curve(prediction.step[late], prediction.loss[late], name, style.PATH, 1)
    ]
    if not prediction.reason:
        label = f"{100 * prediction.level:g} % interval"
        low, high = prediction.lower[late], prediction.upper[late]
        layers.insert(0, chart.band(prediction.step[late], low, high, label))
    return layers


def _residuals_chart(fit: "Fit") -> "Chart":
    from lossatlas.plots import chart, style

    layers = tuple(
        chart.curve(run.step, 100 * np.log(run.loss / law), name, *style.hue(i))
        for i, (run, name, law) in enumerate(_predicted(fit))
    )
    title = f"{fit.law.name}: residuals"
    y = chart.Axis("measured minus fitted (%)", marks_zero=True)
    return chart.Chart(title, chart.Axis("update"), y, layers)


def _predicted(fit: "Fit") -> Iterator[tuple[Curve, str, Floats]]:
    for curve, name in zip(fit.curves, labels(fit.curves), strict=True):
        yield curve, name, fit.law.predict(fit.values, curve.inputs)
