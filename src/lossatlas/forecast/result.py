"""Fit: the parameters of a law, how well they are known, and how wrong it has been."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.checks import check_flag, check_fraction
from lossatlas.cooldown import CooldownShape
from lossatlas.errors import ArgumentError
from lossatlas.forecast.backtest import Backtest
from lossatlas.forecast.best_schedule import SchedulePlan, plan_schedule
from lossatlas.forecast.curve import Curve, Inputs, labels
from lossatlas.forecast.identifiability import (
    FlatDirection,
    ParameterError,
)
from lossatlas.forecast.law import Law, ScheduleLaw, check_parameters
from lossatlas.forecast.laws.baselines import Baseline
from lossatlas.forecast.next_runs import (
    Length,
    RejectedLaw,
    other_schedules,
    rejected_law,
    runs_that_tell,
)
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.prediction import (
    Cooldown,
    Prediction,
    WhatIf,
    answer,
    check_time_unit,
    decay_starts,
    horizon_of,
    inputs_for,
    spans_decades,
    warnings_for,
)
from lossatlas.forecast.rolling import past_errors
from lossatlas.forecast.schedules import check_plan
from lossatlas.forecast.simple import (
    BASIS,
    TOO_FAR,
    first_update,
    simple_estimates,
    simple_figures,
    simple_headline,
    simple_sentences,
)
from lossatlas.forecast.solver import leverages
from lossatlas.forecast.unseen import NO_ERROR, one_schedule, unseen_schedule
from lossatlas.forecast.validation import ErrorModel, LeftOut, error_model
from lossatlas.forecast.verdict import Verdict, judge, off_by, signed
from lossatlas.io import Provenance
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Reference, Result, Table, chart_of, result
from lossatlas.text import as_sentence, count, share_text

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Floats = NDArray[np.float64]
_COMPARE = (
    "`lossatlas forecast compare` forecasts with whatever does best, simple forecasts included."
)
_LOOSE = "Changes of parameters that hardly change the fitted curves"


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


def _of_the_loss(error: str) -> str:
    return f"{error} of the loss" if error.endswith("%") else error


@record
@dataclass(frozen=True)
class Alternative:
    """A law that `fit_best` has tried.

    Attributes:
        law: its name, with its settings.
        error: root mean square of its left-out errors, in log loss; of its backtest where only
            one curve is there; inf where it failed.
        note: why it failed, or empty.
        is_bound: whether the error is a lower bound.
    """

    law: str
    error: float
    note: str = ""
    is_bound: bool = False

    @property
    def off(self) -> str:
        """The error in words."""
        return off_by(self.error, self.is_bound) if np.isfinite(self.error) else "failed"


@result(
    "forecast-fit",
    references=(
        Reference(
            "multi-power law, fitting of laws in the learning rate",
            "Luo et al. A Multi-Power Law for Loss Curve Prediction Across Learning Rate "
            "Schedules. ICLR 2025.",
            "https://arxiv.org/abs/2503.12811",
        ),
    ),
)
class Fit(Result):
    """A fitted law.

    Attributes:
        law: the law.
        values: (p,) parameters in natural units, in the order of `law.parameters`.
        curves: what it was fitted to (thinned, without the warm-up).
        objective: sum of Huber losses of the log residuals, without the prior.
        metric: (p, p) inverse information about the logarithms of the parameters, from which
            the leverage of a forecast comes; None without curves.
        scores: errors on the fitted curves themselves.
        left_out: forecasts of each curve by a fit to the others.
        doubled: forecasts of the longer curves by a fit to half the horizon.
        flat: directions in which the curves leave the parameters loose.
        parameter_errors: standard errors of the logarithms of the parameters, or reasons.
        warnings: what to know before trusting it, in sentences.
        alternatives: the laws that `fit_best` compared, best first.
        backtests: second halves of the curves, forecast by a fit to the first halves.
        provenance: settings and versions.
        began_with: the law that a simple forecast took the place of, and why; None elsewhere.

    Examples:
        >>> from lossatlas.forecast import PowerLaw
        >>> values = {"L0": 2.0, "A": 20.0, "alpha": 0.8}
        >>> fit = Fit.from_parameters(PowerLaw(), values)
        >>> round(float(fit.predict(steps=[1000]).loss[-1]), 3)
        2.08
    """

    law: Law
    values: Floats
    curves: tuple[Curve, ...] = ()
    objective: float = float("nan")
    metric: Floats | None = None
    scores: tuple[LeftOut, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    doubled: tuple[LeftOut, ...] = ()
    flat: tuple[FlatDirection, ...] = ()
    parameter_errors: tuple[ParameterError, ...] = ()
    warnings: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    backtests: tuple[Backtest, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    began_with: RejectedLaw | None = None

    @property
    def parameters(self) -> dict[str, float]:
        """Name -> value."""
        return {n: float(v) for n, v in zip(self.law.parameters, self.values, strict=True)}

    def estimates(self) -> tuple[Estimate, ...]:
        """The parameters, and how wrong the law is on what it has and has not seen."""
        if self.curves and self._is_simple:
            return simple_estimates(self)
        seen = "it describes the fitted curves and says nothing of others"
        return (
            *map(self._parameter, self.law.parameters),
            *([self.errors.estimate()] if self.left_out else []),
            Estimate(self.r2, why_no_error=seen, name="R2", is_minor=True),
            Estimate(self.mae, why_no_error=seen, name="mean absolute error", is_minor=True),
        )

    def _parameter(self, name: str) -> Estimate:
        rows = {row.name: row for row in self.parameter_errors}
        value = self.parameters[name]
        if name not in rows:
            return Estimate(value, why_no_error="the fit has no curves", name=name)
        row = rows[name]
        if row.reason:
            return Estimate(value, why_no_error=row.reason, name=name)
        # To first order; `parameter_intervals` keeps the logarithm.
        return Estimate(
            value, value * row.stderr, samples=round(row.degrees) + 1, name=name,
            meaning=f"parameter of {self.law.name}",
        )  # fmt: skip

    def headline(self) -> str:
        """What the fit is good for, in one sentence."""
        verdict = self.verdict
        if self.curves and self._is_simple:
            return simple_headline(self)
        if self.curves and not verdict.describes:
            return self._undescribed()
        if verdict.usable is False and self._rests_on_backtest:
            return self._checked()
        if self._is_of_one_schedule:
            return self._one_schedule()
        return self._without_interval() if self.errors.reason else self._unseen()

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the law describes its curves, and whether forecasts of it are usable."""
        return judge(self.law, self.values, self.curves, self.backtests)

    @property
    def _is_simple(self) -> bool:
        return isinstance(self.law, Baseline)

    @property
    def files(self) -> tuple[str, ...]:
        """The logs that it was fitted to, where a command has read them."""
        return tuple(map(str, self.provenance.settings.get("files", ())))

    @property
    def distrust(self) -> str:
        """Why the forecasts of this fit are not to be used; empty where they may be used."""
        verdict = self.verdict
        if not self.curves or self._is_simple or verdict.usable is not False:
            return ""
        if verdict.describes and not self._rests_on_backtest:
            return ""
        failed = (
            "its forecasts failed their check" if verdict.describes
            else f"{self.law.name} does not fit the log{'s' * (len(self.curves) > 1)}"
        )  # fmt: skip
        return f"do not use this forecast: {failed} ({verdict.reason})"

    # With several schedules left out one after the other, their errors say more.
    @property
    def _rests_on_backtest(self) -> bool:
        return bool(self.errors.reason) or self._is_of_one_schedule

    def _undescribed(self) -> str:
        failed, runs = self.verdict.failed, len(self.curves)
        which = "the curve" if runs == 1 else f"{failed} of {runs} curves"
        return (
            f"{self.law.name} does not fit {which}: {self.verdict.reason}. Do not use its "
            f"forecasts. {_COMPARE}"
        )

    # Both stand among the sentences as well: what is shown of both is shown once.
    def _without_interval(self) -> str:
        return as_sentence(f"Forecasts have no interval: {self.errors.reason}")

    def _unseen(self) -> str:
        groups, off = self.errors.groups, self._scale
        if any(row.pointwise for row in self.left_out):
            parts = f"each of {groups} parts of the points"
        elif groups == len(self.left_out):
            parts = f"each of {groups} curves"
        else:
            parts = f"each of {groups} groups of {len(self.left_out)} curves"
        return (
            f"Backtest: {parts} was held back and forecast by a fit to the others; these "
            f"forecasts are off by {off} (root mean square)."
        )

    def _doubled(self) -> str:
        half, runs = max(int(c.step[-1]) for c in self.curves) // 2, len(self.doubled)
        off = _of_the_loss(off_by(self.errors.doubling, self.errors.doubling_is_bound))
        return (
            f"Backtest of longer runs: a fit to the updates up to {half:,} alone forecasts "
            f"{count(runs, 'curve')} to the end; it is off by {off}."
        )

    @property
    def _scale(self) -> str:
        return _of_the_loss(off_by(self.errors.scale, self.errors.is_bound))

    @property
    def _is_of_one_schedule(self) -> bool:
        return isinstance(self.law, ScheduleLaw) and one_schedule(self.curves)

    def _one_schedule(self) -> str:
        total, runs = len(self.law.parameters), len(self.curves)
        fixed = sum(not row.reason for row in self.parameter_errors)
        fixes = "determines" if runs == 1 else "determine"
        usable = "usable" if self.verdict.usable else "unchecked"
        return (
            f"Forecasts of the same schedule are {usable}: {self.verdict.reason}. Those of "
            "other schedules are a guess until a run with another schedule is added: "
            f"{'one run' if runs == 1 else f'{runs} runs of one schedule'} {fixes} "
            f"{fixed or 'none'} of the {total} parameters."
        )

    def sentences(self) -> tuple[str, ...]:
        """How well the law fits, how wrong it is on unseen curves, and what to know first."""
        # What stands in the headline, beside a parameter or in a table is not said again.
        beside = ["the curves do not determine", "these curves do not determine it"]
        beside += ["cannot tell what another schedule"] if self._is_of_one_schedule else []
        said = [w for w in self.warnings if not any(text in w for text in beside)]
        verdicts = (
            simple_sentences(self) if self.curves and self._is_simple else self._verdicts()
        )
        return (*verdicts, *map(as_sentence, said_once(said)))

    def _verdicts(self) -> Iterator[str]:
        errors, verdict = self.errors, self.verdict
        if self.curves and not verdict.describes:
            yield self._undescribed()
        elif self.curves and self.r2 > 0:
            fitted = count(len(self.curves), "fitted curve")
            yield (
                f"{self.law.name} explains {share_text(self.r2)} of the variance of {fitted}."
            )
        is_checked = bool(self.backtests) and verdict.describes and self._rests_on_backtest
        if is_checked:
            yield self._checked()
        if np.isfinite(errors.scale):
            yield self._unseen()
        if errors.reason:
            yield self._without_interval()
        if np.isfinite(errors.doubling) and not is_checked:
            yield self._doubled()
        if len(self.alternatives) > 1:
            second = self.alternatives[1]
            laws = count(len(self.alternatives), "law")
            unseen = "left-out curves" if self.left_out else "the second half"
            yield (
                f"Of {laws} compared it forecasts {unseen} best; {second.law} comes next: off "
                f"by {second.off}."
                if np.isfinite(second.error)
                else f"Of {laws} compared only this one could be fitted and checked."
            )

    def _checked(self) -> str:
        verdict = self.verdict
        if verdict.usable is False:
            return f"Forecasts are not usable: {verdict.reason}. {_COMPARE}"
        if self._is_of_one_schedule:
            return self._one_schedule()
        usable = "usable" if verdict.usable else "unchecked"
        return f"Forecasts of the same schedule are {usable}: {verdict.reason}."

    def figures(self) -> tuple[Figure, ...]:
        """The curves with the fitted law, and the residuals."""
        if not self.curves:
            return ()
        name = self.law.name
        if self._is_simple:
            return simple_figures(self)
        return (
            chart_of(
                "curves", f"{name}: measured points and the fitted law", self._curves_chart,
                alt=f"{count(len(self.curves), 'loss curve')} and the fitted law.",
            ),
            chart_of(
                "residuals", f"{name}: residuals", self._residuals_chart,
                alt=f"Residuals of {name} in percent of the loss.",
            ),
        )  # fmt: skip

    def _curves_chart(self) -> "Chart":
        from lossatlas.plots import chart, style

        layers: list[chart.Layer] = []
        for i, (run, name, law) in enumerate(self._predicted()):
            color, dash = style.hue(i)
            layers += [
                chart.dots(run.step, run.loss, color=color),
                chart.curve(run.step, law, name, color, dash),
            ]
        title = f"{self.law.name}: measured points and the fitted law"
        axis = chart.Axis("loss", is_log=spans_decades([run.loss for run in self.curves]))
        return chart.Chart(title, chart.Axis("update"), axis, tuple(layers))

    def _residuals_chart(self) -> "Chart":
        from lossatlas.plots import chart, style

        layers = tuple(
            chart.curve(run.step, 100 * np.log(run.loss / law), name, *style.hue(i))
            for i, (run, name, law) in enumerate(self._predicted())
        )
        title = f"{self.law.name}: residuals"
        y = chart.Axis("measured minus fitted (%)", marks_zero=True)
        return chart.Chart(title, chart.Axis("update"), y, layers)

    def _predicted(self) -> Iterator[tuple[Curve, str, Floats]]:
        for curve, name in zip(self.curves, labels(self.curves), strict=True):
            yield curve, name, self.law.predict(self.values, curve.inputs)

    def parameter_intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Confidence intervals of the parameters.

        They tell what the noise of the curves leaves open if the law is right; that the law may
        be wrong is in the intervals of `predict`. Student's t on the logarithm.

        Args:
            level: confidence, between 0 and 1. Default 0.95.

        Returns:
            Name -> (low, high); NaN where there is none: `parameter_errors` has the reason.

        Raises:
            ArgumentError: a level outside (0, 1).
        """
        check_fraction("level", level)
        unknown = (float("nan"), float("nan"))
        intervals = {row.name: row.interval(self.parameters[row.name], level)
                 for row in self.parameter_errors}  # fmt: skip
        return {name: intervals.get(name, unknown) for name in self.law.parameters}

    @cached_property
    def errors(self) -> ErrorModel:
        """How wrong the law has been on what it had not seen."""
        if self.curves and self._is_simple:
            return past_errors(self.law, self.curves[0])
        return error_model(self.left_out, self.doubled)

    @property
    def r2(self) -> float:
        """Share of the variance of each curve that the fit explains, averaged over curves."""
        shares = []
        for curve in self.curves:
            residual = self.law.predict(self.values, curve.inputs) - curve.loss
            shares.append(1 - (residual**2).mean() / curve.loss.var())
        return float(np.mean(shares))

    @property
    def mae(self) -> float:
        """Mean absolute error on the fitted curves, averaged over curves."""
        return float(np.mean([row.mae for row in self.scores])) if self.scores else float("nan")

    def predict(
        self,
        schedule: Curve | ArrayLike | None = None,
        *,
        steps: ArrayLike | None = None,
        size: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        source: ArrayLike | None = None,
        level: float = 0.9,
    ) -> Prediction:
        """The loss under a schedule, at a size, or on another set.

        The interval comes from the final errors on left-out curves (Student's t, one degree of
        freedom a curve). It widens with the leverage of the schedule, that is where the fitted
        curves leave open what it depends on, and beyond the longest fitted curve by the error
        of a doubled horizon.

        Args:
            schedule: rates of every update, or a curve, whose conditions are taken and whose
                losses are not looked at.
            steps: at which steps; of a simple forecast none before the part that it was fitted
                to, and none beyond the end of the schedule of the log. Default: an even grid of
                200 from the first step of the fitted curves on (no later than half of the
                schedule), the last one included.
            size: model sizes, for laws in size.
            tokens: training tokens, for laws in tokens.
            source: losses on another set, for loss-to-loss laws.
            level: the share of losses to cover. Default 0.9.

        Returns:
            Losses with intervals and warnings. Fewer than three curves: no interval, and the
            reason.

        Raises:
            ArgumentError: arguments that do not fit, a horizon beyond a hundred times the data,
                rates for a power law that was fitted to runs without them, or another schedule
                than that of the log for a simple forecast, which knows no learning rate.
            DataError: something that the law needs is missing.
        """
        check_fraction("level", level)
        inputs = inputs_for(
            self.law, schedule, steps, size=size, tokens=tokens, source=source,
            begin=self.first_step,
        )  # fmt: skip
        inputs = self._own_question(inputs, chosen=steps is not None)
        check_time_unit(self.law, inputs, self.curves)
        loss = self.law.predict(self.values, inputs)
        horizon = horizon_of(inputs, self._longest(inputs), self.law)
        leverage = self._leverage(inputs)
        half = self.errors.half_width(level, horizon, leverage)
        half = np.where((loss > 0) & np.isfinite(half), half, np.nan)
        guess = "" if self._is_simple else unseen_schedule(self.curves, inputs.lr)
        reason = self.errors.reason or self._blind(float(leverage[-1]))
        if guess:
            reason, half = reason or NO_ERROR, np.full(half.shape, np.nan)
        warnings = self._left_out_by(inputs, float(horizon[-1]))
        if self._is_simple and not reason and np.isnan(half[-1]):
            reason = TOO_FAR
        if loss[-1] <= 0:
            reason = "the law gives a loss that is not above 0"
        if loss.min() <= 0:
            warnings = ("the law gives losses <= 0: it does not hold so far out", *warnings)
        return Prediction(
            inputs.step, loss, loss * np.exp(-half), loss * np.exp(half), level,
            float(horizon[-1]), inputs.lr, reason, warnings, groups=self.errors.groups,
            fitted=self.curves if size is tokens is source is None else (),
            basis=BASIS if self._is_simple else "", distrust=self.distrust, guess=guess,
        )  # fmt: skip

    def what_if(
        self,
        curve: Curve,
        decay_at: int | Sequence[int],
        *,
        decay: float = 0.2,
        shape: CooldownShape = "sqrt",
        min_ratio: float = 0.0,
        level: float = 0.9,
    ) -> WhatIf:
        """The end of a run under way if it decays at a step, beside not decaying.

        The run goes on at its present rate until `decay_at`. The law is shifted to where the
        run has lately been, which takes its own luck (seed, data order) into account.

        Args:
            curve: the run so far, with rates.
            decay_at: the step at which the cooldown begins, or several; not before the last
                step of the curve.
            decay: length of the cooldown: a share of `decay_at` up to 1.0, else updates.
                Default 0.2.
            shape: as for `schedules.wsd`. Default "sqrt".
            min_ratio: the last rate as a share of the present one. Default 0.
            level: the share of losses to cover. Default 0.9.

        Returns:
            One row a start.

        Raises:
            ArgumentError: a start in the past, or a number out of range.
            DataError: the curve has no rates.
        """
        check_fraction("level", level)
        if not isinstance(curve, Curve):
            raise ArgumentError(f"`curve` must be a Curve; got {type(curve).__name__}.")
        self._check_rated("what a decay would do")
        self.law.check(curve.inputs, curve.name)
        question = Cooldown(curve, decay, shape, min_ratio, level)
        return answer(
            self.law, self.values, self.predict, question, decay_starts(curve, decay_at)
        )

    # A law without the rate gains nothing by any schedule, whatever runs would show.
    def _check_rated(self, asked: str, length: Length | None = None) -> None:
        if isinstance(self.law, ScheduleLaw) and "lr" in self.law.needs:
            return
        remedy = "Fit runs with different schedules by a law of learning rates."
        if self.curves and not set(self.law.needs) & {"size", "tokens", "source"}:
            remedy = other_schedules(self._longest_run, self.began_with, self.files, length)
        raise ArgumentError(
            f"a law must depend on the rate to tell {asked}, and {self.law.name} does not. "
            f"{remedy}"
        )

    def optimize_schedule(
        self, steps: int, peak: float, *, warmup: int = 0, force: bool = False
    ) -> SchedulePlan:
        """The best schedule of a length: free, as a plain cooldown, and a table of shapes.

        Args:
            steps: updates, warm-up included.
            peak: the highest rate.
            warmup: length of the linear warm-up. Default 0.
            force: rank schedules by a fit that failed its checks; the plan then says so first.
                Default False: such a fit is refused.

        Returns:
            The plan; rows within the law's own error are marked as indistinguishable.

        Raises:
            ArgumentError: a number out of range, a law without rates, or a fit that failed its
                checks.
            DataError: the law expects a loss that is not above 0.
        """
        check_flag("force", force)
        if check_plan(steps, peak, warmup) < 2:
            raise ArgumentError("`steps` must leave two updates or more after the warm-up.")
        length = Length(int(steps), float(peak), int(warmup))
        self._check_rated("which schedule is best", length)
        if self.distrust and not force:
            raise ArgumentError(self._refusal(length))
        assert isinstance(self.law, ScheduleLaw)
        plan = plan_schedule(
            self.law, self.values, steps, peak, warmup=warmup, errors=self.errors
        )
        question = Inputs(np.array([steps]), plan.wsd)
        longest, guess = self._longest(question), unseen_schedule(self.curves, None)
        warnings = warnings_for(question, float(horizon_of(question, longest, self.law)[-1]),
                            self.curves)  # fmt: skip
        told = runs_that_tell(self._longest_run, 1, self.files, length) if guess else ""
        return replace(
            plan, warnings=(*plan.warnings, *warnings, *filter(None, [told])), guess=guess,
            distrust=self.distrust.replace("this forecast", "this ranking"),
        )  # fmt: skip

    @property
    def _longest_run(self) -> Curve:
        return max(self.curves, key=lambda curve: int(curve.step[-1]))

    def _refusal(self, length: Length) -> str:
        verdict = self.verdict
        tried = rejected_law(
            self.law.name, verdict.reason, describes=verdict.describes, error=verdict.error,
            curves=self.curves,
        )  # fmt: skip
        return (
            f"{self.law.name} failed its checks ({verdict.reason}), and cannot rank schedules. "
            f"{other_schedules(self._longest_run, tried, self.files, length)} `force` ranks "
            "them all the same."
        )

    @classmethod
    def from_parameters(cls, law: Law, parameters: Mapping[str, float]) -> "Fit":
        """A law with parameters from elsewhere (a paper, say): no curves, so no intervals.

        Args:
            law: the law.
            parameters: name -> value, all of them.

        Returns:
            A fit without errors.

        Raises:
            ArgumentError: no law, names that are missing, or values that are no numbers.
        """
        if not isinstance(law, Law):
            raise ArgumentError(f"`law` must be a law, MultiPowerLaw() say; got {law!r}.")
        check_parameters("parameters", parameters, law.parameters)
        return cls(law, np.array([float(parameters[name]) for name in law.parameters]))

    # Where a question leaves what the fit has seen.
    def _left_out_by(self, inputs: Inputs, horizon: float) -> tuple[str, ...]:
        if not self._is_simple:
            return warnings_for(inputs, horizon, self.curves)
        return tuple(own_schedule(curve).condition for curve in self.curves)

    # A simple forecast knows no learning rate: it is asked about the schedule of its log only.
    def _own_question(self, inputs: Inputs, *, chosen: bool) -> Inputs:
        if not self._is_simple or not self.curves:
            return inputs
        begin = first_update(self)
        if not chosen:
            late = inputs.step[inputs.step >= begin]
            inputs = replace(inputs, step=np.union1d(late, [begin] * bool(late.size)))
        if not inputs.step.size:
            raise ArgumentError(
                f"`schedule` ends before update {begin}, where {self.law.name} was fitted."
            )
        own_schedule(self.curves[0]).check(self.law.name, inputs.step, inputs.lr, begin)
        return inputs

    # Without a metric (a law with given parameters) every forecast counts as a typical one.
    def _leverage(self, inputs: Inputs) -> Floats:
        if self.metric is None or self._is_simple:
            return np.full(inputs.step.size, 1 / max(self.errors.groups, 1))
        return leverages(self.law, self.values, inputs, self.metric)

    # Why a forecast of infinite leverage has no interval; empty for any other.
    def _blind(self, leverage: float) -> str:
        if self.metric is None or not np.isinf(leverage):
            return ""
        unseen = np.isinf(np.diag(self.metric))
        names = [n for n, blind in zip(self.law.parameters, unseen, strict=True) if blind]
        return (
            f"the loss depends on {', '.join(names)}, which no fitted curve shows at work; add "
            "a run with a schedule of this kind"
        )

    def _longest(self, inputs: Any) -> int:
        if not self.curves:
            return int(inputs.step[-1])
        return max(int(curve.step[-1]) for curve in self.curves)

    @property
    def first_step(self) -> int:
        """The first step of the fitted curves; 1 where there are none."""
        return max(1, min((int(curve.step[0]) for curve in self.curves), default=1))

    def tables(self) -> tuple[Table, ...]:
        """The laws compared, curves forecast by a fit to the others, what is left open."""
        laws = tuple((row.law, row.off, row.note) for row in self.alternatives)
        left_out = tuple(
            (
                row.name,
                signed(row.final),
                off_by(row.rms, row.clipped > 0),
                f"{row.horizon:.3g}",
            )
            for row in self.left_out
        )
        loose = tuple(tuple(str(change).split(": ", 1)) for change in self.flat)
        unseen = "left-out curves" if self.left_out else "the second half"
        laws_head = ("law", f"error on {unseen}", "note")
        left_head = ("curve", "error at the end", "along the curve", "steps over fitted ones")
        made = (
            Table("Laws compared", laws_head, laws),
            Table("Forecasts of curves left out", left_head, left_out),
            Table(_LOOSE, ("change of parameters", "one standard deviation"), loose),
        )
        return tuple(table for table in made if table.rows)
