"""Forecasts of what a fit has not seen: curves left out, and the later half of the curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve, Inputs, labels
from lossatlas.forecast.intervals import LeftOut
from lossatlas.forecast.law import Law
from lossatlas.forecast.outliers import outstanding
from lossatlas.forecast.solver import WIDTH, Objective, Solution, solve
from lossatlas.forecast.sums import log_error

Floats = NDArray[np.float64]

FOLDS = 10  # of the points, where a law of single points has one curve only
UNFELT = (
    1e-12  # a change of the log loss per e-fold of a parameter below which it has no effect
)
FEWEST = 8  # points without which the early half of the curves says nothing


@dataclass(frozen=True)
class Recipe:
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

    def objective(self, curves: Sequence[Curve]) -> Objective:
        """What a fit minimizes.

        Args:
            curves: at least one.

        Returns:
            The function.
        """
        return Objective(self.law, self.law.problem(curves), self.huber, self.prior, self.fixed)

    def solve(self, curves: Sequence[Curve], warm: Floats | None = None) -> Solution:
        """Fit the curves.

        Args:
            curves: at least one.
            warm: (p,) a good start, or None.

        Returns:
            The best end point of all starts.
        """
        objective = self.objective(curves)
        starts = self.law.starts(objective.problem)
        if warm is not None:
            starts = np.vstack([warm, starts])
        return solve(objective, starts, keep=3 if warm is None else 2)

    def metric(self, solution: Solution, curves: Sequence[Curve]) -> Floats:
        """What measures how far a forecast lies from the fit.

        Args:
            solution: the fit.
            curves: what it was fitted to.

        Returns:
            (p, p) inverse information about the logarithms of the parameters, one curve (one
            point, for laws of single points) being the unit; `leverage` applies it.
        """
        objective = self.objective(curves)
        free = objective.free
        counts = [1 if self.law.pointwise else c.step.size for c in curves]
        sizes = [c.step.size for c in curves]
        slopes = solution.jacobian[:, free] / np.sqrt(np.repeat(counts, sizes))[:, None]
        information = slopes.T @ slopes
        rows = objective.prior(np.log(solution.values[free]))[1]
        # The prior weighs as much as an error of one Huber width, as in the objective.
        information += WIDTH**2 * rows.T @ rows
        found = np.zeros((free.size, free.size))
        found[np.ix_(free, free)] = _inverse(information)
        return found


# The inverse of a matrix of information; infinite where nothing at all is known.
def _inverse(information: Floats) -> Floats:
    scale = np.sqrt(np.diag(information))
    known = (scale > 0) & np.isfinite(information).all(axis=0)
    found = np.diag(np.where(known, 0.0, np.inf))
    unit = np.outer(scale[known], scale[known])
    inner = information[np.ix_(known, known)] / unit
    found[np.ix_(known, known)] = np.linalg.inv(inner + 1e-12 * np.eye(len(inner))) / unit
    return np.asarray(found)


def leverages(law: Law, values: Floats, inputs: Inputs, metric: Floats) -> Floats:
    """How far each point of a run lies from what a fit has seen."""
    loss, jacobian = law.evaluate(values, law.features(inputs))
    slopes = jacobian * values / np.where(loss > 0, loss, np.nan)[:, None]
    known = np.isfinite(np.diag(metric))
    inner = metric[np.ix_(known, known)]
    found = np.einsum("ij,jk,ik->i", slopes[:, known], inner, slopes[:, known])
    blind = (np.abs(slopes[:, ~known]) > UNFELT).any(axis=1)
    return np.asarray(np.where(blind, np.inf, found))


def leave_one_out(recipe: Recipe, curves: Sequence[Curve], warm: Floats) -> tuple[LeftOut, ...]:
    """Forecast every group of curves by a fit to the others."""
    if recipe.law.pointwise and len(curves) == 1:
        return _folds(recipe, curves[0], warm)
    names = labels(curves)
    groups = [c.group or name for c, name in zip(curves, names, strict=True)]
    rows = []
    for group in dict.fromkeys(groups):
        rest = [c for c, g in zip(curves, groups, strict=True) if g != group]
        if not rest:
            return ()
        solution = recipe.solve(rest, warm)
        metric = recipe.metric(solution, rest)
        longest = max(int(c.step[-1]) for c in rest)
        rows += [
            score(recipe.law, solution.values, c, name, group, longest=longest, metric=metric)
            for c, name, g in zip(curves, names, groups, strict=True)
            if g == group
        ]
    return tuple(rows)


def doubled_horizon(
    recipe: Recipe, curves: Sequence[Curve], warm: Floats
) -> tuple[LeftOut, ...]:
    """Forecast the longer curves by a fit to the first half of the horizon."""
    half = max(int(c.step[-1]) for c in curves) // 2
    if any((c.step <= half).sum() < FEWEST for c in curves) or recipe.law.pointwise:
        return ()
    early = [c.until(half) for c in curves]
    if any(np.ptp(c.loss) == 0 for c in early):
        return ()
    solution = recipe.solve(early, warm)
    metric = recipe.metric(solution, early)
    return tuple(
        score(recipe.law, solution.values, c, name, name, longest=half, metric=metric)
        for c, name in zip(curves, labels(curves), strict=True)
        if c.step[-1] > half
    )


def score(
    law: Law, values: Floats, curve: Curve, name: str, group: str, *, longest: int,
    metric: Floats | None = None,
) -> LeftOut:  # fmt: skip
    """The errors of one forecast."""
    forecast = law.predict(values, curve.inputs)
    log = log_error(forecast, curve.loss)
    # Laws of single points have no neighbors that a point could stand out from.
    plain = ~outstanding(log) if not law.pointwise or not law.needs else np.isfinite(log)
    kept = log[plain]
    far = float("nan")
    if metric is not None:
        every = leverages(law, values, curve.inputs, metric)
        far = float(every.mean() if law.pointwise else every[-1])
    return LeftOut(
        name, group, int(curve.step[-1]), float(curve.step[-1] / longest), float(kept[-1]),
        float(np.sqrt(np.mean(kept**2))),
        float(np.abs(forecast - curve.loss)[plain].mean()), int((~plain).sum()),
        far, law.pointwise,
    )  # fmt: skip


def _folds(recipe: Recipe, curve: Curve, warm: Floats) -> tuple[LeftOut, ...]:
    n = curve.step.size
    if n < 2 * FOLDS:
        return ()
    fold = np.arange(n) % FOLDS
    rows = []
    for k in range(FOLDS):
        rest = [curve.select(fold != k)]
        solution = recipe.solve(rest, warm)
        metric = recipe.metric(solution, rest)
        part = curve.select(fold == k)
        name = f"every {FOLDS}th point from {k + 1}"
        rows.append(score(
            recipe.law, solution.values, part, name, name, longest=int(curve.step[-1]),
            metric=metric,
        ))  # fmt: skip
    return tuple(rows)
