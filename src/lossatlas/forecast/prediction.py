"""Forecasts: losses with an interval, what to know first, and what a decay would do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.cooldown import CooldownShape, cooldown_length
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.curve import Curve, Inputs, check_rates
from lossatlas.forecast.law import CLIPPED, Law, ScheduleLaw, log_error
from lossatlas.forecast.logged_schedule import logged_schedule
from lossatlas.forecast.schedules import (
    check_length,
    in_words,
    is_monotone,
    warmup_length,
    wsd,
)
from lossatlas.forecast.verdict import off_by
from lossatlas.intervals import t_quantile
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Result, chart_of, result
from lossatlas.text import as_sentence, interval_text, number, percent, with_ends

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

POINTS = 200  # of a forecast whose steps are not given
WIDE = 10.0  # the largest loss of a picture over the smallest, on an axis of plain numbers
FAR = 2.0  # horizons beyond this are warned of
# Half an interval of the log loss from which on its ends lie so unevenly around the loss that a
# standard error says less than the interval.
SKEWED = 0.1
ABSURD = 100.0  # horizons beyond this are refused
# Share of a horizon that a picture leaves out at the start.
_UNSHOWN = 0.02


@result("forecast-prediction")
class Prediction(Result):
    """What a law expects of a run.

    Attributes:
        step: (n,) updates done.
        loss: (n,) expected losses.
        lower: (n,) lower ends of the intervals; NaN where there is none.
        upper: (n,) upper ends.
        level: the share of losses that the interval should cover.
        horizon: the last step over the longest one of the fit.
        lr: (T,) the schedule, or None.
        reason: why there is no interval; empty where there is one.
        warnings: what to know before believing it, in sentences.
        groups: independent curves that the interval comes from.
        measured: the run itself, where it is known.
        fitted: the curves that the law was fitted to, where it forecasts updates.
        basis: what the interval comes from, in a sentence, where that is not left-out curves.
        distrust: why it is not to be used, where the fit failed its checks; empty elsewhere.
        guess: why it is a guess, where no fitted run shows the schedule; empty elsewhere.

    Examples:
        >>> from lossatlas.forecast import Fit, PowerLaw
        >>> fit = Fit.from_parameters(PowerLaw(), {"L0": 2.0, "A": 20.0, "alpha": 0.8})
        >>> print(fit.predict(steps=[500, 1000]).sentences()[0])
        The expected loss at step 1,000 is 2.08.
    """

    step: Steps
    loss: Floats
    lower: Floats
    upper: Floats
    level: float
    horizon: float
    lr: Floats | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    groups: int = 0
    measured: Curve | None = None
    fitted: tuple[Curve, ...] = ()
    basis: str = ""
    distrust: str = ""
    guess: str = ""

    @property
    def half_width(self) -> float:
        """Half the last interval, in log loss; NaN where there is none."""
        return float(np.log(self.upper[-1] / self.lower[-1]) / 2)

    @property
    def final(self) -> tuple[float, float, float]:
        """The last loss, and the ends of its interval."""
        return float(self.loss[-1]), float(self.lower[-1]), float(self.upper[-1])

    def with_measured(self, measured: Curve) -> "Prediction":
        """The forecast beside the run as it was measured.

        Args:
            measured: the run.

        Returns:
            A new prediction.

        Raises:
            ArgumentError: `measured` is not a `Curve`.
        """
        if not isinstance(measured, Curve):
            raise ArgumentError(f"`measured` must be a Curve; got {type(measured).__name__}.")
        return replace(self, measured=measured)

    def estimates(self) -> tuple[Estimate, ...]:
        """The final loss, and what was measured."""
        name = f"final loss{' (a guess)' * bool(self.guess)}"
        final = forecast_estimate(
            name, self.final, self.level, self.groups, self.reason,
            alone=bool(self.basis),
        )  # fmt: skip
        if self.measured is None:
            return (final,)
        why = "the loss at one step of one run"
        return (final, Estimate(self._last_measured, why_no_error=why, name="measured loss"))

    def sentences(self) -> tuple[str, ...]:
        """Whether not to use it, the final loss, its interval and error, and warnings."""
        out = [as_sentence(self.distrust)] * bool(self.distrust) + [self.final_sentence]
        out += [as_sentence(f"It is a guess because {self.guess}")] * bool(self.guess)
        if self.loss[-1] > 0 and self.reason:
            out.append(as_sentence(f"It has no interval: {self.reason}"))
        elif self.loss[-1] > 0:
            out.append(self.basis or (
                f"The interval comes from a backtest: each of {self.groups} curves, or groups "
                "of them, was held back and forecast by a fit to the others."
            ))  # fmt: skip
        if self.measured is not None:
            off = float(log_error(self.loss[-1], np.array(self._last_measured)))
            side = "above" if off > 0 else "below"
            out.append(
                f"The measured loss is {self._last_measured:.4f}: the forecast is "
                f"{off_by(off, off <= np.log(CLIPPED))} {side} it."
            )
        if self.lr is not None:
            out.append(f"Its schedule: {in_words(self.lr)}.")
        return (*out, *map(as_sentence, self.warnings))

    @property
    def final_sentence(self) -> str:
        """The final loss with its interval."""
        loss, lower, upper = self.final
        start = "A guess: the" if self.guess else "The"
        start = f"{start} expected loss at step {self.step[-1]:,} is "
        if loss <= 0:
            return (
                f"The law gives {number(loss)} at step {self.step[-1]:,}, which no loss can "
                "be: it does not hold there, and this is no forecast."
            )
        if self.reason:
            return f"{start}{number(loss)}."
        shown, ends = with_ends(loss, lower, upper)
        return f"{start}{shown}, {100 * self.level:g} % interval {ends}."

    @property
    def _last_measured(self) -> float:
        assert self.measured is not None
        return float(self.measured.loss[-1])

    def figures(self) -> tuple[Figure, ...]:
        """The forecast with its interval, beside what was measured."""
        alt = " ".join(self.sentences()[:2])
        return (chart_of("forecast", self.title, self.chart, alt=alt),)

    @property
    def title(self) -> str:
        """The last loss with its interval, over a picture."""
        loss, lower, upper = self.final
        name = "Guess" if self.guess else "Forecast"
        name = f"Not to be used: {name.lower()}" if self.distrust else name
        start = f"{name} at {self.step[-1]:,}"
        if self.reason:
            return f"{start}: {loss:.4f}"
        shown, ends = with_ends(loss, lower, upper)
        return f"{start}: {shown} {ends}"

    def chart(self) -> "Chart":
        """The forecast with its interval, the fitted points and what was measured."""
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Layer, band, curve, dots

        run = self.measured
        # The first updates of a law lie far above the others and would flatten them.
        begin = run.step[0] if run is not None else _UNSHOWN * self.step[-1]
        kept = self.step >= min(begin, self.step[-1])
        step, loss, lower, upper = (
            each[kept] for each in (self.step, self.loss, self.lower, self.upper)
        )
        seen = [(each, each.step >= begin) for each in self.fitted]
        layers: list[Layer] = [
            dots(each.step[late], each.loss[late], "fitted points", style.FAINT)
            for each, late in seen
            if late.any()
        ]
        layers.append(curve(step, loss, "forecast"))
        if run is not None:
            layers.append(dots(run.step, run.loss, "measured", style.PATH))
        if not self.reason:
            label = f"{100 * self.level:g} % interval"
            layers.insert(0, band(step, lower, upper, label))
        shown = [loss, *(each.loss[late] for each, late in seen)]
        axis = Axis("loss", is_log=spans_decades(shown))
        return Chart(self.title, Axis("update"), axis, tuple(layers))


def spans_decades(losses: Sequence[Floats]) -> bool:
    """Whether losses of one picture are so far apart that only a logarithm shows them all."""
    low = min(float(each.min()) for each in losses if each.size)
    high = max(float(each.max()) for each in losses if each.size)
    return low > 0 and high > WIDE * low


def forecast_estimate(
    name: str,
    final: tuple[float, float, float],
    level: float,
    groups: int,
    reason: str,
    *,
    alone: bool = False,
) -> Estimate:
    """A forecast loss whose interval at `level` is the forecast's, to first order."""
    loss, lower, upper = final
    half = np.log(upper / lower) / 2
    if not np.isfinite(half):
        return Estimate(loss, why_no_error=reason or "there is no interval", name=name)
    if alone or half > SKEWED:
        ends = with_ends(loss, lower, upper)[1]
        return Estimate(loss, why_no_error=f"{100 * level:g} % interval {ends}", name=name)
    stderr = float(loss * half / t_quantile(level, groups + 1))
    return Estimate(
        loss, stderr, samples=groups + 1, name=name,
        meaning=f"{100 * level:g} % interval {interval_text(lower, upper)}",
    )  # fmt: skip


def inputs_for(
    law: Law,
    schedule: Curve | ArrayLike | None,
    steps: ArrayLike | None,
    *,
    size: ArrayLike | None,
    tokens: ArrayLike | None,
    source: ArrayLike | None,
    begin: int = 1,
) -> Inputs:
    """What a law is asked, from what a user gave; an even grid starts at `begin`."""
    if isinstance(schedule, Curve):
        inputs = schedule.inputs
        if steps is not None:
            inputs = Inputs(_steps(steps), inputs.lr)
    else:
        rates = None if schedule is None else as_float_array("schedule", schedule)
        if rates is not None:
            check_rates(rates)
        values = [v for v in (size, tokens, source) if v is not None]
        step = _steps(steps) if steps is not None else _grid(rates, values, begin)
        inputs = Inputs(step, rates, *(_like(v, step) for v in (size, tokens, source)))
    law.check(inputs)
    return inputs


def check_time_unit(law: Law, inputs: Inputs, fitted: Sequence[Curve]) -> None:
    """Require that a law which counts updates or sums rates is asked in the unit of its fit."""
    if not isinstance(law, ScheduleLaw) or law.needs or not fitted:
        return
    rated = fitted[0].lr is not None
    if rated == (inputs.lr is not None):
        return
    if rated:
        raise ArgumentError(
            f"`schedule` must give rates: {law.name} was fitted to runs with rates and sums "
            "them; `steps` alone count updates, which is another unit."
        )
    raise ArgumentError(
        f"`schedule` must not give rates: {law.name} was fitted to runs without rates and "
        "counts updates, which is another unit; give `steps` alone, or fit runs with `lr`."
    )


def horizon_of(inputs: Inputs, longest: int, law: Law) -> Floats:
    """How far each point lies beyond the fitted steps; refused where that is absurd."""
    if law.pointwise and "lr" not in law.needs and law.needs:
        return np.ones(inputs.step.size)
    ratio = inputs.step / longest
    if ratio[-1] > ABSURD:
        raise ArgumentError(
            f"`schedule` reaches step {inputs.step[-1]}, {ratio[-1]:.0f} times the longest "
            f"curve of the fit ({longest}); beyond {ABSURD:.0f} times a forecast is a guess: "
            "fit a longer run."
        )
    return np.asarray(ratio)


def warnings_for(inputs: Inputs, horizon: float, curves: Sequence[Curve]) -> tuple[str, ...]:
    """Where a question leaves what the fit has seen."""
    fitted = [curve.lr for curve in curves if curve.lr is not None]
    out = []
    # The last points of a long curve are averaged, and their step lies before its end.
    if horizon > 1.01 * FAR:
        out.append(
            f"the horizon is {horizon:.1f} times the longest fitted curve; the exponents "
            "extrapolate badly that far"
        )
    if inputs.lr is None or not fitted:
        return tuple(out)
    rates = inputs.lr
    if not is_monotone(rates):
        out.append("the schedule rises after its warm-up; the law is untested there")
    out += _foreign_peak(float(rates.max()), fitted, curves)
    deepest = min(float((r[warmup_length(r) :] / r.max()).min()) for r in fitted)
    depth = float((rates[warmup_length(rates) :] / rates.max()).min())
    if depth < 0.5 * deepest:
        out.append(
            f"the rate falls to {percent(depth)} of its peak, lower than in every fitted run "
            f"(lowest: {percent(deepest)})"
        )
    return tuple(out)


def _foreign_peak(peak: float, fitted: list[Floats], curves: Sequence[Curve]) -> list[str]:
    peaks = [float(r.max()) for r in fitted]
    if 0.99 * min(peaks) <= peak <= 1.01 * max(peaks):
        return []
    # The peak of a run may lie between two logged rates, or before the first.
    logged = [schedule.peak for curve in curves if (schedule := logged_schedule(curve))]
    highest = max([*peaks, *logged])
    if 0.99 * min(peaks) <= peak <= 1.01 * highest:
        return []
    ends = dict.fromkeys(f"{end:g}" for end in (min(peaks), highest))
    return [
        f"the peak rate {peak:g} is not among the fitted ones ({' to '.join(ends)}); the law "
        "holds for one peak"
    ]


def _steps(steps: ArrayLike) -> Steps:
    values = np.atleast_1d(as_float_array("steps", steps))
    whole = np.isfinite(values).all() and (values % 1 == 0).all() and (values >= 1).all()
    if values.ndim != 1 or not values.size or not whole or (np.diff(values) <= 0).any():
        raise ArgumentError("`steps` must be increasing whole numbers >= 1.")
    check_length("steps", float(values[-1]))
    return values.astype(np.int64)


def _grid(rates: Floats | None, values: list[ArrayLike], begin: int) -> Steps:
    if rates is None:
        if not values:
            raise ArgumentError(
                "`schedule` must be a curve or the rates of every update; for a law without "
                "rates give `steps`, `size`, `tokens` or `source`."
            )
        return np.arange(1, max(np.size(v) for v in values) + 1)
    first = max(warmup_length(rates), int(np.argmax(rates > 0))) + 1
    # Before its first measured step a law is not known, and often very high.
    first = min(max(first, min(begin, rates.size // 2)), rates.size)
    return np.unique(np.linspace(first, rates.size, POINTS).astype(np.int64))


def _like(value: ArrayLike | None, step: Steps) -> Floats | None:
    if value is None:
        return None
    array = as_float_array("size, tokens, source", value)
    if array.shape not in {(), (step.size,), (1,)}:
        raise ArgumentError(
            f"`size`, `tokens` and `source` must be numbers or have one length; "
            f"got {array.size} beside {step.size}."
        )
    if not (np.isfinite(array) & (array > 0)).all():
        raise DataError("`size`, `tokens` and `source` must be finite and > 0.")
    return np.broadcast_to(array, (step.size,)).copy()


RECENT = 0.1  # the share of a run's points that shows where it stands against the law


@record
@dataclass(frozen=True, eq=False)
class Decay:
    """The end of a run that begins to decay at one step.

    Attributes:
        decay_at: the step at which the cooldown begins.
        steps: the last step.
        loss: the final loss.
        lower: lower end of its interval; NaN where there is none.
        upper: upper end.
        constant_loss: the loss at the same step without a cooldown.
        lr: (T,) the schedule.
    """

    decay_at: int
    steps: int
    loss: float
    lower: float
    upper: float
    constant_loss: float
    lr: Floats

    @property
    def gain(self) -> float:
        """What the cooldown gains by its end."""
        return self.constant_loss - self.loss


@result("forecast-decay")
class WhatIf(Result):
    """The end of a run under way, for each start of the cooldown.

    Attributes:
        decays: one answer a start.
        offset: by how much (in log loss) the run has lately lain above the law; the answers are
            shifted by it.
        level: the share of losses that the intervals should cover.
        reason: why there is no interval; empty where there is one.
        warnings: what to know before believing it.
        groups: independent curves that the intervals come from.
        distrust: why it is not to be used, where the fit failed its checks; empty elsewhere.
        guess: why it is a guess, where the fitted runs do not show what a decay does; empty
            elsewhere.

    Examples:
        >>> from lossatlas.forecast import Curve, Fit, LinearLRLaw
        >>> law = {"L0": 2.0, "A": 1.0, "alpha": 0.5, "B": 1.0}
        >>> run = Curve([100, 200, 300], [2.4, 2.3, 2.2], lr=0.1)
        >>> answer = Fit.from_parameters(LinearLRLaw(), law).what_if(run, [300, 400])
        >>> [row.steps for row in answer.decays]
        [360, 480]
    """

    decays: tuple[Decay, ...]
    offset: float
    level: float
    reason: str
    warnings: tuple[str, ...]
    groups: int = 0
    distrust: str = ""
    guess: str = ""

    def estimates(self) -> tuple[Estimate, ...]:
        """The final loss for each start of the cooldown."""
        doubt = " (a guess)" if self.guess else ""
        return tuple(
            forecast_estimate(
                f"final loss, decay at {row.decay_at}{doubt}", (row.loss, row.lower, row.upper),
                self.level, self.groups, self.reason,
            )
            for row in self.decays
        )  # fmt: skip

    def sentences(self) -> tuple[str, ...]:
        """The end and the gain for each start, and warnings."""
        rows = [as_sentence(self.distrust)] * bool(self.distrust)
        rows += [as_sentence(f"What a decay does is a guess: {self.guess}")] * bool(self.guess)
        rows += [
            f"A decay from step {row.decay_at:,} ends at step {row.steps:,} with a loss of "
            f"{number(row.loss)}, {number(row.gain)} below the constant rate."
            if row.loss > 0
            else f"Of a decay from step {row.decay_at:,} the law gives {number(row.loss)}, "
            "which no loss can be: it does not hold there, and this is no forecast."
            for row in self.decays
        ]
        rows += [as_sentence(f"The losses have no interval: {self.reason}")] * bool(self.reason)
        return (*rows, *map(as_sentence, self.warnings))

    def figures(self) -> tuple[Figure, ...]:
        """The final loss with and without a decay, over the start of the decay."""
        alt = " ".join(self.sentences()[: len(self.decays)])
        return (chart_of("decay", self._title, self._chart, alt=alt),)

    @property
    def _title(self) -> str:
        return "What a decay gains (a guess)" if self.guess else "What a decay gains"

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Layer, band, marks

        names = ("decay_at", "loss", "constant_loss", "lower", "upper")
        start, loss, constant, lower, upper = (
            np.array([getattr(row, name) for row in self.decays]) for name in names
        )
        layers: list[Layer] = []
        if not self.reason:
            layers.append(band(start, lower, upper, f"{100 * self.level:g} % interval"))
        layers += [
            marks(start, loss, "with a decay"),
            marks(start, constant, "constant rate", style.PATH, "triangle-up"),
        ]
        x, y = Axis("start of the decay"), Axis("final loss")
        return Chart(self._title, x, y, tuple(layers))


@dataclass(frozen=True, eq=False)
class Cooldown:
    """A cooldown of a run under way.

    Attributes:
        curve: the run so far.
        decay: its length: a share of its start up to 1.0, else updates.
        shape: as for `schedules.wsd`.
        min_ratio: the last rate as a share of the present one.
        level: the share of losses to cover.
    """

    curve: Curve
    decay: float
    shape: CooldownShape
    min_ratio: float
    level: float


def answer(
    law: Law,
    values: Floats,
    predict: Callable[..., Prediction],
    question: Cooldown,
    starts: Sequence[int],
) -> WhatIf:
    """The rows."""
    curve, level = question.curve, question.level
    if curve.lr is None:
        raise ArgumentError("`curve` must have rates to ask what a decay would do.")
    past = curve.select(curve.step > curve.inputs.warmup)
    offset = offset_of(-log_error(law.predict(values, past.inputs), past.loss))
    shift = float(np.exp(offset))
    rows: list[Decay] = []
    decayed: Prediction | None = None
    warnings: dict[str, None] = {}
    for start in starts:
        whole = continued(curve.lr, question, start)
        hold = np.append(whole[:start], np.full(whole.size - start, whole[start - 1]))
        decayed = predict(whole, steps=[whole.size], level=level)
        constant = predict(hold, steps=[whole.size], level=level)
        loss, lower, upper = (shift * value for value in decayed.final)
        rows.append(
            Decay(start, whole.size, loss, lower, upper, shift * constant.final[0], whole)
        )
        warnings |= dict.fromkeys(decayed.warnings)
    assert decayed is not None
    return WhatIf(
        tuple(rows), offset, level, decayed.reason, tuple(warnings), decayed.groups,
        decayed.distrust, decayed.guess,
    )  # fmt: skip


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


def continued(rates: Floats, question: Cooldown, start: int) -> Floats:
    """A schedule that goes on at its present rate and then decays."""
    length, last = question.decay, int(question.curve.step[-1])
    steps = max(cooldown_length("decay", length, start), 2)
    check_length("decay", float(steps))
    now = float(rates[last - 1])
    falling = wsd(steps, now, steps, question.shape, min_ratio=question.min_ratio)
    return np.concatenate([rates[:last], np.full(start - last, now), falling])


def offset_of(log_residual: Floats) -> float:
    """Where a run stands against the law: the median of its latest residuals."""
    recent = max(3, round(RECENT * log_residual.size))
    return float(np.median(log_residual[-recent:]))
