"""Fit: the parameters of a law, how well they are known, and how wrong it has been."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.checks import check_flag, check_fraction
from lossatlas.cooldown import CooldownShape
from lossatlas.errors import ArgumentError
from lossatlas.forecast import summary
from lossatlas.forecast.ahead import forecast_ahead
from lossatlas.forecast.backtest import Backtest
from lossatlas.forecast.best_schedule import SchedulePlan, plan_schedule
from lossatlas.forecast.curve import Curve, Inputs
from lossatlas.forecast.identifiability import (
    FlatDirection,
    ParameterError,
)
from lossatlas.forecast.law import Law, ScheduleLaw, check_parameters
from lossatlas.forecast.laws.baselines import Baseline
from lossatlas.forecast.next_runs import (
    Advice,
    Length,
    RejectedLaw,
    rejected_law,
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
    warnings_for,
)
from lossatlas.forecast.rolling import past_errors
from lossatlas.forecast.schedules import check_plan
from lossatlas.forecast.simple import (
    BASIS,
    TOO_FAR,
    first_update,
)
from lossatlas.forecast.solver import leverages
from lossatlas.forecast.unseen import NO_ERROR, one_schedule, unseen_schedule
from lossatlas.forecast.validation import ErrorModel, LeftOut, error_model
from lossatlas.forecast.verdict import Verdict, judge, off_by
from lossatlas.io import Provenance
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Reference, Result, Table, result

if TYPE_CHECKING:
    pass

Floats = NDArray[np.float64]


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
        loss: its forecast of the end of the longest run, as in `Fit.ahead`; NaN without one.
        lower: lower end of the interval; NaN without one.
        upper: upper end.
    """

    law: str
    error: float
    note: str = ""
    is_bound: bool = False
    loss: float = float("nan")
    lower: float = float("nan")
    upper: float = float("nan")

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
        """The forecast, the error on what the fit has not seen, and the parameters."""
        return summary.estimates(self)

    def headline(self) -> str:
        """The loss at the end of the longest run, or why there is no such forecast."""
        return summary.headline(self)

    def sentences(self) -> tuple[str, ...]:
        """Which forecast is used and why, how it was checked, and what to know first."""
        return summary.sentences(self)

    def tables(self) -> tuple[Table, ...]:
        """Forecasts compared, curves forecast by a fit to the others, the parameters."""
        return summary.tables(self)

    def figures(self) -> tuple[Figure, ...]:
        """The curves with the law and its forecast, and the residuals."""
        return summary.figures(self)

    @cached_property
    def ahead(self) -> Prediction | None:
        """The forecast of the longest run to the end of its schedule, or twice its updates.

        None where the fit failed its checks, for laws of sizes, and where the rates of the log
        do not show how they go on.
        """
        return forecast_ahead(self)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the law describes its curves, and whether forecasts of it are usable."""
        return judge(self.law, self.values, self.curves, self.backtests)

    @property
    def is_simple(self) -> bool:
        """Whether it is a simple forecast, which knows no learning rate."""
        return isinstance(self.law, Baseline)

    @property
    def files(self) -> tuple[str, ...]:
        """The logs that it was fitted to, where a command has read them."""
        return tuple(map(str, self.provenance.settings.get("files", ())))

    @property
    def distrust(self) -> str:
        """Why the forecasts of this fit are not to be used; empty where they may be used."""
        verdict = self.verdict
        if not self.curves or self.is_simple or verdict.usable is not False:
            return ""
        if verdict.describes and not self.rests_on_backtest:
            return ""
        failed = (
            "its forecasts failed their check" if verdict.describes
            else f"{self.law.name} does not fit the log{'s' * (len(self.curves) > 1)}"
        )  # fmt: skip
        return f"do not use this forecast: {failed} ({verdict.reason})"

    # With several schedules left out one after the other, their errors say more.
    @property
    def rests_on_backtest(self) -> bool:
        """Whether second halves check it, and not runs left out."""
        return bool(self.errors.reason) or self.is_of_one_schedule

    @property
    def is_of_one_schedule(self) -> bool:
        """Whether it is a law of rates that saw one schedule."""
        return isinstance(self.law, ScheduleLaw) and one_schedule(self.curves)

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
        if self.curves and self.is_simple:
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
        guess = "" if self.is_simple else unseen_schedule(self.curves, inputs.lr)
        reason = self.errors.reason or self._blind(float(leverage[-1]))
        if guess:
            reason, half = reason or NO_ERROR, np.full(half.shape, np.nan)
        warnings = self._left_out_by(inputs, float(horizon[-1]))
        if self.is_simple and not reason and np.isnan(half[-1]):
            reason = TOO_FAR
        if loss[-1] <= 0:
            reason = "the law gives a loss that is not above 0"
        if loss.min() <= 0:
            warnings = ("the law gives losses <= 0: it does not hold so far out", *warnings)
        return Prediction(
            inputs.step, loss, loss * np.exp(-half), loss * np.exp(half), level,
            float(horizon[-1]), inputs.lr, reason, warnings, groups=self.errors.groups,
            fitted=self.curves if size is tokens is source is None else (),
            basis=BASIS if self.is_simple else "", distrust=self.distrust, guess=guess,
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
            remedy = self.advice(length).other_schedules
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
        runs = self.advice(length).runs_that_tell() if guess else ""
        return replace(
            plan, warnings=(*plan.warnings, *warnings, *filter(None, [runs])), guess=guess,
            distrust=self.distrust.replace("this forecast", "this ranking"),
        )  # fmt: skip

    def advice(self, length: Length | None = None) -> Advice:
        """Say what helps with the fitted runs.

        Args:
            length: of the runs that are proposed. Default: that of the longest run.

        Returns:
            The advice.
        """
        verdict, tried = self.verdict, self.began_with
        if tried is None and self.distrust and "lr" in self.law.needs:
            tried = rejected_law(
                self.law.name, verdict.reason, describes=verdict.describes,
                error=verdict.error, curves=self.curves,
            )  # fmt: skip
        law = "a simple forecast" if self.is_simple else self.law.name
        return Advice(law, self.curves, tried, self.files, length)

    def _refusal(self, length: Length) -> str:
        return (
            f"{self.law.name} failed its checks ({self.verdict.reason}), and cannot rank "
            f"schedules. {self.advice(length).other_schedules} `force` ranks them all the same."
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
        if not self.is_simple:
            return warnings_for(inputs, horizon, self.curves)
        return tuple(own_schedule(curve).condition for curve in self.curves)

    # A simple forecast knows no learning rate: it forecasts the schedule of its log only.
    def _own_question(self, inputs: Inputs, *, chosen: bool) -> Inputs:
        if not self.is_simple or not self.curves:
            return inputs
        begin = first_update(self)
        if not chosen:
            late = inputs.step[inputs.step >= begin]
            inputs = replace(inputs, step=np.union1d(late, [begin] * bool(late.size)))
        if not inputs.step.size:
            raise ArgumentError(
                f"`schedule` ends before update {begin}, where {self.law.name} was fitted."
            )
        own_schedule(self.curves[0]).check(
            self.law.name, inputs.step, inputs.lr, begin, self.advice().instead
        )
        return inputs

    # Without a metric (a law with given parameters) every forecast counts as a typical one.
    def _leverage(self, inputs: Inputs) -> Floats:
        if self.metric is None or self.is_simple:
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
