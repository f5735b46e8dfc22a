"""Fit: the parameters of a law, how well they are known, and how wrong it has been."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from lossatlas import store
from lossatlas.checks import check_fraction, check_path
from lossatlas.errors import ArgumentError
from lossatlas.forecast import packing
from lossatlas.forecast.certainty import ParameterError
from lossatlas.forecast.curve import Curve, Inputs
from lossatlas.forecast.identify import FlatDirection
from lossatlas.forecast.intervals import ErrorModel, LeftOut, error_model
from lossatlas.forecast.law import Law, ScheduleLaw, check_parameters
from lossatlas.forecast.optimize import SchedulePlan, plan_schedule
from lossatlas.forecast.prediction import (
    Prediction,
    check_time_unit,
    horizon_of,
    inputs_for,
    warnings_for,
)
from lossatlas.forecast.schedules import check_plan
from lossatlas.forecast.validation import leverages
from lossatlas.forecast.whatif import Question, WhatIf, answer, decay_starts
from lossatlas.store import Provenance

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Alternative:
    """A law that `fit_best` has tried.

    Attributes:
        law: its name, with its settings.
        error: root mean square of its left-out errors, in log loss; inf where it failed.
        note: why it failed, or empty.
    """

    law: str
    error: float
    note: str = ""


_TABLES: dict[str, Any] = {
    "scores": LeftOut, "left_out": LeftOut, "doubled": LeftOut, "flat": FlatDirection,
    "parameter_errors": ParameterError,
    "alternatives": Alternative,
}  # fmt: skip


@store.kind("forecast-fit")
@dataclass(frozen=True, eq=False)
class Fit:
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
        provenance: settings and versions.
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
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def parameters(self) -> dict[str, float]:
        """Name -> value."""
        return {n: float(v) for n, v in zip(self.law.parameters, self.values, strict=True)}

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
        found = {row.name: row.interval(self.parameters[row.name], level)
                 for row in self.parameter_errors}  # fmt: skip
        return {name: found.get(name, unknown) for name in self.law.parameters}

    @property
    def errors(self) -> ErrorModel:
        """How wrong the law has been on what it had not seen."""
        return error_model(self.left_out, self.doubled)

    @property
    def r2(self) -> float:
        """Share of the variance of each curve that the fit explains, averaged over curves."""
        found = []
        for curve in self.curves:
            residual = self.law.predict(self.values, curve.inputs) - curve.loss
            found.append(1 - (residual**2).mean() / curve.loss.var())
        return float(np.mean(found))

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
        interval: float = 0.9,
    ) -> Prediction:
        """The loss under a schedule, at a size, or on another set.

        The interval comes from the final errors on left-out curves (Student's t, one degree of
        freedom a curve). It widens with the leverage of the schedule, that is where the fitted
        curves leave open what it depends on, and beyond the longest fitted curve by the error
        of a doubled horizon.

        Args:
            schedule: rates of every update, or a curve, whose conditions are taken and whose
                losses are not looked at.
            steps: at which steps. Default: an even grid of 200, the last step included.
            size: model sizes, for laws in size.
            tokens: training tokens, for laws in tokens.
            source: losses on another set, for loss-to-loss laws.
            interval: the share of losses to cover. Default 0.9.

        Returns:
            Losses with intervals and warnings. Fewer than three curves: no interval, and the
            reason.

        Raises:
            ArgumentError: arguments that do not fit, a horizon beyond a hundred times the data,
                or rates for a power law that was fitted to runs without them.
            DataError: something that the law needs is missing.
        """
        check_fraction("interval", interval)
        inputs = inputs_for(self.law, schedule, steps, size=size, tokens=tokens, source=source)
        check_time_unit(self.law, inputs, self.curves)
        loss = self.law.predict(self.values, inputs)
        horizon = horizon_of(inputs, self._longest(inputs), self.law)
        leverage = self._leverage(inputs)
        half = self.errors.half_width(interval, horizon, leverage)
        half = np.where((loss > 0) & np.isfinite(half), half, np.nan)
        reason = self.errors.reason or self._blind(float(leverage[-1]))
        warnings = warnings_for(inputs, float(horizon[-1]), self._schedules())
        if loss.min() <= 0:
            warnings = ("the law gives losses <= 0: it does not hold so far out", *warnings)
        return Prediction(
            inputs.step, loss, loss * np.exp(-half), loss * np.exp(half), interval,
            float(horizon[-1]), inputs.rates, reason, warnings,
        )  # fmt: skip

    def what_if(
        self,
        curve: Curve,
        decay_at: int | Sequence[int],
        *,
        length: float = 0.2,
        shape: str = "sqrt",
        min_ratio: float = 0.0,
        interval: float = 0.9,
    ) -> WhatIf:
        """The end of a run under way if it decays at a step, beside not decaying.

        The run goes on at its present rate until `decay_at`. The law is shifted to where the
        run has lately been, which takes its own luck (seed, data order) into account.

        Args:
            curve: the run so far, with rates.
            decay_at: the step at which the cooldown begins, or several; not before the last
                step of the curve.
            length: of the cooldown: a share of `decay_at` if < 1, else updates. Default 0.2.
            shape: as for `schedules.wsd`. Default "sqrt".
            min_ratio: the last rate as a share of the present one. Default 0.
            interval: the share of losses to cover. Default 0.9.

        Returns:
            One row a start.

        Raises:
            ArgumentError: a start in the past, or a number out of range.
            DataError: the curve has no rates.
        """
        check_fraction("interval", interval)
        if not isinstance(curve, Curve):
            raise ArgumentError(f"`curve` must be a Curve; got {type(curve).__name__}.")
        self.law.check(curve.inputs, curve.name)
        question = Question(curve, length, shape, min_ratio, interval)
        return answer(
            self.law, self.values, self.predict, question, decay_starts(curve, decay_at)
        )

    def optimize_schedule(self, steps: int, peak: float, *, warmup: int = 0) -> SchedulePlan:
        """The best schedule of a length: free, as a plain cooldown, and a table of shapes.

        Args:
            steps: updates, warm-up included.
            peak: the highest rate.
            warmup: length of the linear warm-up. Default 0.

        Returns:
            The plan; rows within the law's own error are marked as indistinguishable.

        Raises:
            ArgumentError: a number out of range, or a law without rates.
        """
        if not isinstance(self.law, ScheduleLaw) or "lr" not in self.law.needs:
            raise ArgumentError(
                f"`law` must depend on the rate to choose a schedule; {self.law.name} does "
                "not; fit a MultiPowerLaw."
            )
        if check_plan(steps, peak, warmup) < 2:
            raise ArgumentError("`steps` must leave two updates or more after the warm-up.")
        plan = plan_schedule(
            self.law, self.values, steps, peak, warmup=warmup, error=self.errors.scale
        )
        question = Inputs(np.array([steps]), plan.wsd)
        longest = self._longest(question)
        told = warnings_for(question, float(horizon_of(question, longest, self.law)[-1]),
                            self._schedules())  # fmt: skip
        return plan.with_warnings(told)

    def save(self, path: str | Path) -> Path:
        """Write to one netCDF file; `lossatlas.load` reads it back.

        Args:
            path: where, by convention `*.nc`.

        Returns:
            The path.

        Raises:
            FileError: the place cannot be written.
        """
        return store.save(self, check_path("path", path))

    def to_tree(self) -> dict[str, xr.Dataset]:
        """As groups for the store.

        Returns:
            Group name -> Dataset.
        """
        tables = {key: [asdict(row) for row in getattr(self, key)] for key in _TABLES}
        facts = packing.law_record(self.law) | {"objective": self.objective, **tables}
        facts |= {"metric": None if self.metric is None else self.metric.tolist()}
        facts |= {"warnings": self.warnings, "provenance": self.provenance.to_json()}
        return packing.pack(self.law.parameters, self.values, facts, self.curves)

    @classmethod
    def from_tree(cls, tree: dict[str, xr.Dataset]) -> "Fit":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> Dataset.

        Returns:
            An equal fit.
        """
        values, facts, curves = packing.unpack(tree)
        tables = {
            # Files of earlier versions lack the younger tables.
            key: tuple(kind(**row) for row in facts.get(key, ()))
            for key, kind in _TABLES.items()
        }
        metric = facts.get("metric")
        return cls(
            metric=None if metric is None else np.array(metric),
            law=packing.law_from_record(facts), values=values, curves=curves,
            objective=facts["objective"], warnings=tuple(facts["warnings"]),
            provenance=Provenance.from_json(facts["provenance"]), **tables,
        )  # fmt: skip

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

    # Without a metric (a file of an earlier version) every forecast counts as a typical one.
    def _leverage(self, inputs: Inputs) -> Floats:
        if self.metric is None:
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

    def _schedules(self) -> list[Floats]:
        return [curve.rates for curve in self.curves if curve.rates is not None]
