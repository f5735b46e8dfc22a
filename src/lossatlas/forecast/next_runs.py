"""Which runs to train so that another schedule can be judged, and the commands that follow."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast import schedules
from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.identifiability import distinct_schedules
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.validation import LEAST
from lossatlas.io.records import record
from lossatlas.text import count, with_error

Floats = NDArray[np.float64]

LATE, FEWEST = 1 / 16, 4  # share of the updates, and losses, that show where a run ended
COOLDOWN = 0.2  # of the updates: the fall of the run that holds its rate first


@record
@dataclass(frozen=True)
class RejectedLaw:
    """The law with which a fit began, and why a simple forecast took its place.

    Attributes:
        law: its name.
        reason: why it failed its checks, or could not be checked; a clause.
        describes: whether it follows the losses that it was fitted to.
        error: root mean square log error of the second halves; NaN without a backtest.
        runs: the runs it was fitted to.
        ends: the mean loss of the last sixteenth of the updates of each.
        stderrs: standard errors of these means.
        schedules: how many different schedules they have.
    """

    law: str
    reason: str
    describes: bool
    error: float
    runs: tuple[str, ...]
    ends: tuple[float, ...]
    stderrs: tuple[float, ...]
    schedules: int


def rejected_law(
    law: str, reason: str, *, describes: bool, error: float, curves: Sequence[Curve]
) -> RejectedLaw:
    """A law that failed, with the runs it was fitted to."""
    ends, stderrs = zip(*map(_end, curves), strict=True)
    rates = [curve.lr for curve in curves if curve.lr is not None]
    names = tuple(labels(curves))
    return RejectedLaw(
        law, reason, describes, error, names, ends, stderrs, distinct_schedules(rates)
    )


# The mean of the last losses, and its standard error: a cooldown shows in the very last ones.
def _end(curve: Curve) -> tuple[float, float]:
    late = curve.step > (1 - LATE) * curve.step[-1]
    late[-FEWEST:] = True
    losses = curve.loss[late]
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(losses.size))


@dataclass(frozen=True)
class Length:
    """How long runs are to be, and their peak rate.

    Attributes:
        steps: updates, warm-up included.
        peak: the highest rate.
        warmup: updates of the linear warm-up.
    """

    steps: int
    peak: float
    warmup: int


def length_of(curve: Curve) -> Length:
    """The length, peak and warm-up of a log with rates."""
    assert curve.lr is not None
    own = own_schedule(curve)
    steps, plan = own.end or int(curve.lr.size), own.plan
    top = schedules.warmup_length(curve.lr)
    warmup = plan.warmup if plan is not None else (top + 1 if top else 0)
    peak = float(f"{(plan.peak if plan is not None else float(curve.lr.max())):.4g}")
    return Length(steps, peak, min(warmup, steps // 2))


def other_schedules(
    curve: Curve,
    tried: RejectedLaw | None,
    files: Sequence[str],
    length: Length | None = None,
) -> str:
    """What can be said of other schedules, and what would tell; sentences.

    Args:
        curve: the log.
        tried: the law that failed on it.
        files: names of the logs.
        length: of the runs that would tell. Default: that of the log.

    Returns:
        Sentences.
    """
    runs = 1 if tried is None else len(tried.runs)
    if curve.lr is None:
        return (
            "Other schedules: without learning rates nothing can be said about them. Log the "
            f"rate beside the loss (a column lr). {runs_that_tell(curve, 0, (), length)}"
        )
    if tried is None or tried.schedules < LEAST:
        known = 1 if tried is None else tried.schedules
        what = "one log" if runs == 1 else f"{runs} logs with {count(known, 'schedule')}"
        return (
            f"Other schedules: from {what} nothing can be said about them, because "
            f"{_why(tried)}. {runs_that_tell(curve, known, files, length)}"
        )
    return f"Other schedules: {_why(tried)}, so that none can be ranked. {_compared(tried)}"


def runs_that_tell(
    curve: Curve, known: int, files: Sequence[str], length: Length | None = None
) -> str:
    """The runs to add to those of so many schedules, and the commands; sentences."""
    if length is None and curve.lr is not None:
        length = length_of(curve)
    missing = max(LEAST - known, 1)
    times = (
        _unknown_times(own_schedule(curve).question // 2) if length is None
        else _times(planned(curve, length)[:missing])
    )  # fmt: skip
    return f"To know, train the same model {times}. {_then(files, known, length)}"


def what_fails(tried: RejectedLaw) -> str:
    """The step that helps where enough runs are there and the law fails; a sentence."""
    if tried.describes:
        return (
            f"What helps: not more runs but longer ones; {tried.law} follows your "
            f"{len(tried.runs)} runs, and {tried.reason}."
        )
    return (
        f"What helps: not more runs of this kind, because {tried.law} does not follow the "
        f"losses of your {len(tried.runs)} runs ({tried.reason})."
    )


def _why(tried: RejectedLaw | None) -> str:
    simple = "a simple forecast knows no learning rate"
    return simple if tried is None else f"{tried.law} fails its checks, and {simple}"


def _times(plans: Sequence[Floats]) -> str:
    told = [schedules.in_words(rates) for rates in plans]
    if len(told) == 1:
        return f"once more: {told[0]}"
    times = {2: "twice"}.get(len(told), f"{len(told)} times")
    return f"{times} more: " + "; ".join(f"({i}) {each}" for i, each in enumerate(told, 1))


def _unknown_times(updates: int) -> str:
    last = round(COOLDOWN * updates)
    return (
        f"three times for {updates:,} updates: with the rate held, with the rate held and then "
        f"linear to 0 over the last {last:,} updates, and with a cosine to 0"
    )


def planned(curve: Curve, length: Length) -> list[Floats]:
    """Schedules of a length and peak that differ from that of a log."""
    steps, peak, warmup = length.steps, length.peak, length.warmup
    every = [
        schedules.wsd(steps, peak, COOLDOWN, "linear", warmup=warmup),
        schedules.cosine(steps, peak, warmup=warmup),
        schedules.constant(steps, peak, warmup),
    ]
    mine = own_schedule(curve).rates(steps)
    return [rates for rates in every if mine is None or _differ(rates, mine)]


def _differ(first: Floats, second: Floats) -> bool:
    size = min(first.size, second.size)
    return float(np.abs(first[:size] - second[:size]).max()) > 0.1 * float(first.max())


# What to do with the new logs.
def _then(files: Sequence[str], known: int, length: Length | None) -> str:
    new = [f"new{i}.csv" for i in range(1, max(LEAST - known, 1) + 1)]
    names = shlex.join([*(files or ["LOG"] * (known > 0)), *new])
    options = "--steps STEPS --peak PEAK"
    if length is not None:
        options = f"--steps {length.steps} --peak {length.peak:.4g}"
        options += f" --warmup {length.warmup}" * bool(length.warmup)
    return (
        "The last losses, averaged over a sixteenth of the updates, compare these schedules "
        f"directly. `lossatlas forecast fit {names} --out forecast` then fits all logs "
        "together, and where a law passes its checks, `lossatlas forecast schedule forecast "
        f"{options}` ranks more schedules."
    )


# The runs at hand compare their schedules by themselves.
def _compared(tried: RejectedLaw) -> str:
    order = np.argsort(tried.ends)
    told = [f"{tried.runs[i]} {with_error(tried.ends[i], tried.stderrs[i])}" for i in order]
    return (
        "The mean losses of the last sixteenth of the updates (± one standard error) compare "
        f"your runs directly: {', '.join(told)}. Each further schedule needs a run of its own."
    )
