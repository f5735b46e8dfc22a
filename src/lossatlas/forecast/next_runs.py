"""Which runs to train so that another schedule can be judged, and the commands that follow."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast import schedules
from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.same_schedule import distinct_schedules
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
    names = tuple(labels(curves))
    return RejectedLaw(
        law, reason, describes, error, names, ends, stderrs, distinct_schedules(curves)
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
    peak = float(f"{(plan.peak if plan is not None else float(curve.lr.max())):.4g}")
    return Length(steps, peak, min(own.warmup, steps // 2))


@dataclass(frozen=True, eq=False)
class Advice:
    """What helps with the fitted runs, from what was fitted to them and how that ended.

    All that a fit, a forecast or a ranking advises about other runs comes from here.

    Attributes:
        law: what forecasts: the name of a law, or "a simple forecast".
        curves: the logs that it was fitted to.
        tried: the law that was fitted to the logs and failed; None where there was none.
        files: names of the logs.
        length: of the runs that are proposed. Default: that of the log.
    """

    law: str
    curves: Sequence[Curve]
    tried: RejectedLaw | None = None
    files: Sequence[str] = ()
    length: Length | None = None

    @property
    def curve(self) -> Curve:
        """The longest log."""
        return max(self.curves, key=lambda curve: int(curve.step[-1]))

    @property
    def has_enough_runs(self) -> bool:
        """Whether a law was fitted to as many schedules as it needs, and still failed."""
        return self.tried is not None and self.tried.schedules >= LEAST

    @property
    def next_step(self) -> str:
        """What helps where enough runs are there and the law fails; a sentence, or empty."""
        tried = self.tried
        if tried is None or not self.has_enough_runs:
            return ""
        if tried.describes:
            return (
                f"What helps: longer runs, and not more of them; {tried.law} follows your "
                f"{len(tried.runs)} runs, but {tried.reason}."
            )
        return (
            f"More runs of this kind do not help, because {tried.law} does not follow the "
            f"losses of your {len(tried.runs)} runs ({tried.reason})."
        )

    @property
    def other_schedules(self) -> str:
        """What can be said of other schedules, and which runs would tell; sentences."""
        if self.curve.lr is None:
            return (
                "Other schedules: without learning rates nothing can be said about them. Log "
                f"the rate beside the loss (a column lr). {self.runs_that_tell()}"
            )
        if self.has_enough_runs:
            return f"Other schedules: {self._why}, so that none can be ranked. {self._compared}"
        known, runs = self._known, len(self.curves if self.tried is None else self.tried.runs)
        if known >= LEAST:
            names = shlex.join(self.files or ["LOGS"])
            return (
                f"Other schedules: fit a law of learning rates to your {runs} runs, which have "
                f"{known} schedules: `lossatlas forecast fit {names}`."
            )
        what = "one log" if runs == 1 else f"{runs} logs with {count(known, 'schedule')}"
        return (
            f"Other schedules: from {what} nothing can be said about them, because "
            f"{self._why}. {self.runs_that_tell()}"
        )

    @property
    def instead(self) -> str:
        """What to do where a simple forecast was given another schedule; sentences."""
        if self.tried is not None and self.has_enough_runs:
            return (
                f"{self.tried.law} was fitted to {len(self.tried.runs)} runs with "
                f"{count(self.tried.schedules, 'schedule')} and failed its checks, too. "
                f"{self._compared}"
            )
        return (
            "A law of learning rates may, once it is fitted to runs with three schedules: "
            "`lossatlas forecast schedule` names the runs that are missing."
        )

    def runs_that_tell(self) -> str:
        """The runs to add to the fitted ones, and the commands; sentences."""
        known, length = self._known, self.length
        if length is None and self.curve.lr is not None:
            length = length_of(self.curve)
        missing = max(LEAST - known, 1)
        times = (
            _unknown_times(own_schedule(self.curve).question // 2) if length is None
            else _times(planned(self.curve, length)[:missing])
        )  # fmt: skip
        # A log without rates would make the fit one without rates.
        files = () if self.curve.lr is None else self.files
        return f"To find out, train the same model {times}. {_then(files, known, length)}"

    @property
    def _known(self) -> int:
        if self.tried is not None:
            return self.tried.schedules
        return distinct_schedules(self.curves)

    @property
    def _why(self) -> str:
        blind = f"{self.law} knows no learning rate"
        if self.tried is None or self.tried.law == self.law:
            return blind if self.tried is None else f"{self.law} fails its checks"
        return f"{self.tried.law} fails its checks, and {blind}"

    # The fitted runs compare their schedules by themselves.
    @property
    def _compared(self) -> str:
        assert self.tried is not None
        tried = self.tried
        means = ", ".join(
            f"{tried.runs[i]} {with_error(tried.ends[i], tried.stderrs[i])}"
            for i in np.argsort(tried.ends)
        )
        return (
            "The mean losses of the last sixteenth of the updates (± one standard error) "
            f"compare your runs directly: {means}. Each further schedule needs a run of its "
            "own."
        )


def _times(plans: Sequence[Floats]) -> str:
    texts = [schedules.in_words(rates) for rates in plans]
    if len(texts) == 1:
        return f"once more: {texts[0]}"
    times = {2: "twice"}.get(len(texts), f"{len(texts)} times")
    return f"{times} more: " + "; ".join(f"({i}) {each}" for i, each in enumerate(texts, 1))


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
