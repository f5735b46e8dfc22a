"""Forecasts of what a fit has not seen: curves left out, and the later half of the curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.intervals import LeftOut
from lossatlas.forecast.law import Law
from lossatlas.forecast.outliers import outstanding
from lossatlas.forecast.solver import Objective, Solution, solve
from lossatlas.forecast.sums import log_error

Floats = NDArray[np.float64]

FOLDS = 10  # of the points, where a law of single points has one curve only
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
        """What a fit minimises.

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


def leave_one_out(recipe: Recipe, curves: Sequence[Curve], warm: Floats) -> tuple[LeftOut, ...]:
    """Forecast every group of curves by a fit to the others.

    Args:
        recipe: how to fit.
        curves: all curves.
        warm: (p,) parameters of the fit to all, as one more start.

    Returns:
        One row a curve; none where all curves are one group. A law of single points with one
        curve leaves out every tenth point instead.
    """
    if recipe.law.pointwise and len(curves) == 1:
        return _folds(recipe, curves[0], warm)
    names = labels(curves)
    groups = [c.group or name for c, name in zip(curves, names, strict=True)]
    rows = []
    for group in dict.fromkeys(groups):
        rest = [c for c, g in zip(curves, groups, strict=True) if g != group]
        if not rest:
            return ()
        values = recipe.solve(rest, warm).values
        longest = max(int(c.step[-1]) for c in rest)
        rows += [
            score(recipe.law, values, c, name, group, longest=longest)
            for c, name, g in zip(curves, names, groups, strict=True)
            if g == group
        ]
    return tuple(rows)


def doubled_horizon(
    recipe: Recipe, curves: Sequence[Curve], warm: Floats
) -> tuple[LeftOut, ...]:
    """Forecast the longer curves by a fit to the first half of the horizon.

    Args:
        recipe: how to fit.
        curves: all curves.
        warm: (p,) parameters of the fit to all, as one more start.

    Returns:
        One row for each curve that is longer than half the longest; none where too few points
        lie in the first half.
    """
    half = max(int(c.step[-1]) for c in curves) // 2
    if any((c.step <= half).sum() < FEWEST for c in curves) or recipe.law.pointwise:
        return ()
    early = [c.until(half) for c in curves]
    if any(np.ptp(c.loss) == 0 for c in early):
        return ()
    values = recipe.solve(early, warm).values
    return tuple(
        score(recipe.law, values, c, name, name, longest=half)
        for c, name in zip(curves, labels(curves), strict=True)
        if c.step[-1] > half
    )


def score(
    law: Law, values: Floats, curve: Curve, name: str, group: str, *, longest: int
) -> LeftOut:
    """The errors of one forecast.

    Args:
        law: the law.
        values: (p,) its parameters.
        curve: the truth.
        name: what to call it.
        group: what was left out with it.
        longest: the last step that the fit had seen.

    Returns:
        A row of the table.
    """
    forecast = law.predict(values, curve.inputs)
    log = log_error(forecast, curve.loss)
    # Laws of single points have no neighbors that a point could stand out from.
    plain = ~outstanding(log) if not law.pointwise or not law.needs else np.isfinite(log)
    kept = log[plain]
    return LeftOut(
        name, group, int(curve.step[-1]), float(curve.step[-1] / longest), float(kept[-1]),
        float(np.sqrt(np.mean(kept**2))),
        float(np.abs(forecast - curve.loss)[plain].mean()), int((~plain).sum()),
    )  # fmt: skip


def _folds(recipe: Recipe, curve: Curve, warm: Floats) -> tuple[LeftOut, ...]:
    n = curve.step.size
    if n < 2 * FOLDS:
        return ()
    fold = np.arange(n) % FOLDS
    rows = []
    for k in range(FOLDS):
        values = recipe.solve([curve.select(fold != k)], warm).values
        part = curve.select(fold == k)
        name = f"every {FOLDS}th point from {k + 1}"
        rows.append(score(recipe.law, values, part, name, name, longest=int(curve.step[-1])))
    return tuple(rows)
