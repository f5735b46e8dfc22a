"""One fitting routine: Huber loss on log residuals, exact Jacobian, damped Gauss-Newton."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve, Inputs
from lossatlas.forecast.law import FitData, Law

Floats = NDArray[np.float64]

UNFELT = 1e-12  # a change of the log loss per e-fold below which a parameter has no effect
STEPS = 300  # of the damped iteration, an upper bound
WIDTH = 1e-3  # of a log residual: the unit of the objective where the loss is least squares
SIFT = 6  # best starts that are refined
TASTE = 12  # iterations given to each of them before the best ones go on


@dataclass(frozen=True)
class Solution:
    """Where the iteration ended.

    Attributes:
        values: (p,) parameters in natural units.
        objective: sum of Huber losses of the log residuals, without the prior.
        penalized: mean Huber loss of each curve, summed, in units of the width squared, plus
            half the prior's squares.
        residuals: (n,) log prediction minus log loss.
        jacobian: (n, p) derivatives of the residuals by the logarithms of the parameters.
        converged: whether it stopped by itself.
        at_limit: (p,) whether a parameter lies on a limit: -1 low, 1 high, 0 inside.
    """

    values: Floats
    objective: float
    penalized: float
    residuals: Floats
    jacobian: Floats
    converged: bool
    at_limit: NDArray[np.int64]


class HuberObjective:
    """The function to minimize, over logarithms of the free parameters."""

    def __init__(
        self, law: Law, problem: FitData, huber: float, prior: bool, fixed: dict[str, float]
    ) -> None:
        self.law, self.problem, self.huber, self.use_prior = law, problem, huber, prior
        self.log_loss = np.log(problem.loss)
        counts = np.array([loss.size for loss in problem.losses])
        # The points of one curve share one smooth error: each curve is one observation,
        # however densely it was logged, and an error of one Huber width weighs as much as one
        # deviation of the prior.
        self.weight = np.repeat(1 / (counts * min(huber, WIDTH) ** 2), counts)
        low, high = law.limits(problem)
        self.fixed = np.array([fixed.get(name, np.nan) for name in law.parameters])
        self.free = np.isnan(self.fixed)
        self.low, self.high = np.log(low[self.free]), np.log(high[self.free])

    def spread(self, logs: Floats) -> Floats:
        """Returns all parameters in natural units from the logarithms of the free ones."""
        values = self.fixed.copy()
        values[self.free] = np.exp(logs)
        return values

    def residuals(self, logs: Floats) -> tuple[Floats, Floats]:
        """Returns (n,) log residuals and their (n, q) derivatives by the free logarithms."""
        values = self.spread(logs)
        parts = [self.law.evaluate(values, f) for f in self.problem.features]
        loss = np.concatenate([part[0] for part in parts])
        jacobian = np.concatenate([part[1] for part in parts])
        if not (loss > 0).all():
            return np.full(loss.size, np.inf), jacobian[:, self.free]
        slopes = jacobian[:, self.free] * (values[self.free] / loss[:, None])
        return np.log(loss) - self.log_loss, slopes

    def prior(self, logs: Floats) -> tuple[Floats, Floats]:
        """Returns the prior's rows for the free parameters."""
        if not self.use_prior or type(self.law).prior is Law.prior:
            return np.empty(0), np.empty((0, logs.size))
        with np.errstate(divide="ignore"):
            everything = np.log(self.spread(logs))
        rows, slopes = self.law.prior(everything, self.problem)
        keep = np.isfinite(rows)
        return rows[keep], slopes[keep][:, self.free]

    def losses(self, residuals: Floats) -> Floats:
        """Returns each residual's Huber loss: squares inside the width, linear outside."""
        size = np.abs(residuals)
        inner = np.minimum(size, self.huber)
        return inner * (size - 0.5 * inner)

    def value(self, residuals: Floats, rows: Floats) -> float:
        """Returns the penalized objective."""
        return float(self.weight @ self.losses(residuals) + 0.5 * rows @ rows)

    def at(self, logs: Floats) -> float:
        """Returns the penalized objective at a point; inf where the law has no value."""
        value = self.value(self.residuals(logs)[0], self.prior(logs)[0])
        return value if np.isfinite(value) else np.inf

    def normal(self, residuals: Floats, slopes: Floats, logs: Floats) -> tuple[Floats, Floats]:
        """Returns gradient and Gauss-Newton matrix of the penalized objective."""
        rows, row_slopes = self.prior(logs)
        size = np.maximum(np.abs(residuals), 1e-300)
        weighted = slopes * (self.weight * np.minimum(1.0, self.huber / size))[:, None]
        gradient = weighted.T @ residuals + row_slopes.T @ rows
        return gradient, weighted.T @ slopes + row_slopes.T @ row_slopes


def solve(objective: HuberObjective, starts: Floats, keep: int = 3) -> Solution:
    """Minimize from all starts; of many, the better ones get a taste and the best go on."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        logs = np.clip(np.log(starts[:, objective.free]), objective.low, objective.high)
        order = np.argsort([objective.at(row) for row in logs], kind="stable")
        chosen = [logs[i] for i in order[:SIFT]]
        if len(chosen) > keep:
            tasted = [_descend(objective, start, TASTE) for start in chosen]
            chosen = [end[0] for end in sorted(tasted, key=lambda end: end[1])[:keep]]
        ends = [_descend(objective, start, STEPS) for start in chosen]
        best = min(ends, key=lambda end: end[1])
        return _solution(objective, *best)


# Levenberg-Marquardt with box limits: the point, its value, and whether it converged.
def _descend(objective: HuberObjective, logs: Floats, steps: int) -> tuple[Floats, float, bool]:
    low, high = objective.low, objective.high
    logs = np.clip(logs, low, high)
    residuals, slopes = objective.residuals(logs)
    value = objective.value(residuals, objective.prior(logs)[0])
    damping, growth, patience = 1e-3, 2.0, 0
    if not np.isfinite(value):
        return logs, np.inf, False
    gradient, matrix = objective.normal(residuals, slopes, logs)
    for _ in range(steps):
        held = ((logs <= low) & (gradient > 0)) | ((logs >= high) & (gradient < 0))
        trial = np.clip(logs + _step(gradient, matrix, ~held, damping), low, high)
        step = trial - logs
        promised = -float(gradient @ step + 0.5 * step @ matrix @ step)
        residuals, slopes = objective.residuals(trial)
        new = objective.value(residuals, objective.prior(trial)[0])
        if not np.isfinite(new) or new > value:
            damping, growth = damping * growth, growth * 2
            if damping > 1e12:
                return logs, value, True
            continue
        gain = value - new
        # Nielsen's rule: trust the model more, the better it foretold the gain.
        ratio = min(gain / max(promised, 1e-300), 2.0)
        damping, growth = max(damping * max(1 / 5, 1 - (2 * ratio - 1) ** 3), 1e-12), 2.0
        patience = patience + 1 if gain <= 1e-9 * max(value, 1e-12) else 0
        logs, value = trial, new
        if patience >= 2:
            return logs, value, True
        gradient, matrix = objective.normal(residuals, slopes, logs)
    return logs, value, False


def _step(gradient: Floats, matrix: Floats, free: NDArray[np.bool_], damping: float) -> Floats:
    step = np.zeros_like(gradient)
    if not free.any():
        return step
    inner = matrix if free.all() else matrix[np.ix_(free, free)]
    # Marquardt's scaling, with a floor so that a parameter without any effect stays put.
    scale = np.diag(inner) + 1e-12 * np.trace(inner) + 1e-300
    step[free] = -np.linalg.solve(inner + damping * np.diag(scale), gradient[free])
    longest = np.abs(step).max()
    # More than a few e-folds at once leaves the region where the linear model means anything.
    return step * min(1.0, 2.0 / longest) if longest > 0 else step


def _solution(
    objective: HuberObjective, logs: Floats, value: float, converged: bool
) -> Solution:
    residuals, slopes = objective.residuals(logs)
    jacobian = np.zeros((residuals.size, objective.free.size))
    jacobian[:, objective.free] = slopes
    at_limit = np.zeros(objective.free.size, dtype=np.int64)
    near = 1e-6
    at_limit[objective.free] = (logs >= objective.high - near).astype(int) - (
        logs <= objective.low + near
    ).astype(int)
    return Solution(
        objective.spread(logs), float(objective.losses(residuals).sum()), value, residuals,
        jacobian, converged, at_limit,
    )  # fmt: skip


@dataclass(frozen=True)
class FitSettings:
    """How to fit: everything but the curves.

    Attributes:
        law: the law.
        huber: width of the Huber loss, in log residuals.
        prior: whether the law's prior holds.
        fixed: parameters that are known.
    """

    law: Law
    huber: float
    prior: bool = True
    fixed: dict[str, float] = field(default_factory=dict)

    def objective(self, curves: Sequence[Curve]) -> HuberObjective:
        """What a fit minimizes."""
        return HuberObjective(
            self.law, self.law.problem(curves), self.huber, self.prior, self.fixed
        )

    def solve(self, curves: Sequence[Curve], warm: Floats | None = None) -> Solution:
        """Fit the curves."""
        objective = self.objective([self.law.recent(curve) for curve in curves])
        profile = self.law.profile(objective.problem, objective.weight, objective.huber)
        if profile is not None and objective.free.all():
            solution = solve(objective, profile)
            if solution.converged:
                return solution
        starts = self.law.starts(objective.problem)
        if warm is not None:
            starts = np.vstack([warm, starts])
        return solve(objective, starts, keep=3 if warm is None else 2)

    def metric(self, solution: Solution, curves: Sequence[Curve]) -> Floats:
        """What measures how far a forecast lies from the fit."""
        curves = [self.law.recent(curve) for curve in curves]
        objective = self.objective(curves)
        free = objective.free
        counts = [1 if self.law.pointwise else c.step.size for c in curves]
        sizes = [c.step.size for c in curves]
        slopes = solution.jacobian[:, free] / np.sqrt(np.repeat(counts, sizes))[:, None]
        information = slopes.T @ slopes
        rows = objective.prior(np.log(solution.values[free]))[1]
        # The prior weighs as much as an error of one Huber width, as in the objective.
        information += WIDTH**2 * rows.T @ rows
        whole = np.zeros((free.size, free.size))
        whole[np.ix_(free, free)] = _inverse(information)
        return whole


# The inverse of a matrix of information; infinite where nothing at all is known.
def _inverse(information: Floats) -> Floats:
    scale = np.sqrt(np.diag(information))
    informed = (scale > 0) & np.isfinite(information).all(axis=0)
    inverse = np.diag(np.where(informed, 0.0, np.inf))
    unit = np.outer(scale[informed], scale[informed])
    inner = information[np.ix_(informed, informed)] / unit
    inverse[np.ix_(informed, informed)] = (
        np.linalg.inv(inner + 1e-12 * np.eye(len(inner))) / unit
    )
    return np.asarray(inverse)


def leverages(law: Law, values: Floats, inputs: Inputs, metric: Floats) -> Floats:
    """How far each point of a run lies from what a fit has seen."""
    loss, jacobian = law.evaluate(values, law.features(inputs))
    slopes = jacobian * values / np.where(loss > 0, loss, np.nan)[:, None]
    informed = np.isfinite(np.diag(metric))
    inner = metric[np.ix_(informed, informed)]
    variance = np.einsum("ij,jk,ik->i", slopes[:, informed], inner, slopes[:, informed])
    blind = (np.abs(slopes[:, ~informed]) > UNFELT).any(axis=1)
    return np.asarray(np.where(blind, np.inf, variance))
