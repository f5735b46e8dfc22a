"""How well the curves know each parameter: standard errors that allow for Huber weights.

The estimate minimizes a sum of Huber losses, so its covariance is the sandwich H^-1 M H^-1: H
is the curvature of the objective, M the spread of its gradient. Residuals of one curve follow
each other; M is widened by (1 + phi) / (1 - phi), with phi the correlation of neighbors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.identify import LOOSE
from lossatlas.forecast.outliers import GAUSS
from lossatlas.forecast.solver import Objective, Solution
from lossatlas.intervals import t_quantile

Floats = NDArray[np.float64]

ALIKE = 0.98  # correlation of neighbors beyond which a curve counts as one observation
TIED = 0.3  # share of the variance that comes from parameters which are not known themselves
FARTHEST = 20.0  # e-folds: more is no bound at all
CLIPPED = 4.0  # robust deviations at which residuals are cut for the correlation of neighbors
HELD = 0.5  # share of what is known of a parameter that may come from the prior


@dataclass(frozen=True)
class ParameterError:
    """How well a parameter is known.

    Attributes:
        name: the parameter.
        stderr: standard error of its logarithm; NaN where it is not known.
        degrees: degrees of freedom of that error.
        reason: why it is not known, in a sentence; empty where it is.
    """

    name: str
    stderr: float
    degrees: float
    reason: str = ""

    def interval(self, value: float, level: float) -> tuple[float, float]:
        """The confidence interval of the parameter."""
        half = float(t_quantile(level, self.degrees + 1)) * self.stderr
        return float(value * np.exp(-half)), float(value * np.exp(half))


def parameter_errors(
    objective: Objective, solution: Solution, counts: Sequence[int]
) -> tuple[ParameterError, ...]:
    """The standard error of every parameter, or why there is none."""
    free = np.flatnonzero(objective.free)
    reasons = ["it was given"] * objective.free.size
    errors = np.full(len(reasons), np.nan)
    degrees = _effective(solution.residuals, counts)[1] - free.size
    if degrees < 1:
        for i in free:
            reasons[i] = "the residuals are too few or too alike to tell of an error"
    elif free.size:
        covariance, held = _sandwich(objective, solution, counts)
        errors[free] = np.sqrt(np.diag(covariance))
        told = _reasons(objective, solution, covariance, held)
        for i, reason in zip(free, told, strict=True):
            reasons[i] = reason
    return tuple(
        ParameterError(name, float("nan") if reason else float(error), float(degrees), reason)
        for name, error, reason in zip(objective.law.parameters, errors, reasons, strict=True)
    )


# Why a free parameter has no interval: its limit, no information, the prior, or a neighbor.
def _reasons(
    objective: Objective, solution: Solution, covariance: Floats, held: Floats
) -> list[str]:
    names = [
        n for n, free in zip(objective.law.parameters, objective.free, strict=True) if free
    ]
    errors = np.sqrt(np.diag(covariance))
    limit = solution.at_limit[objective.free] != 0
    reasons = []
    for error, at_limit, share in zip(errors, limit, held, strict=True):
        factor = "without bound" if not error < FARTHEST else f"a factor of {np.exp(error):.3g}"
        reason = "the prior holds it, not the curves" if share > HELD else ""
        reason = reason if error <= LOOSE else f"the curves leave it free: {factor}"
        reasons.append("it lies at its limit: the curves do not fix it" if at_limit else reason)
    lost = np.flatnonzero(limit | ~(errors <= LOOSE))
    for i in range(len(names)):
        if lost.size and not reasons[i] and not _shared(covariance, i, lost) <= TIED:
            reasons[i] = f"it moves with {names[lost[0]]}, which the curves do not fix"
    return reasons


# The share of a parameter's variance that comes from others; NaN where theirs is not known.
def _shared(covariance: Floats, i: int, others: NDArray[np.int64]) -> float:
    inner, ties = covariance[np.ix_(others, others)], covariance[i, others]
    if not np.isfinite(inner).all():
        return float("nan")
    return float(ties @ np.linalg.pinv(inner, rcond=1e-12) @ ties / covariance[i, i])


# The covariance of the free logarithms, and the share of each that the prior holds.
def _sandwich(
    objective: Objective, solution: Solution, counts: Sequence[int]
) -> tuple[Floats, Floats]:
    slopes = solution.jacobian[:, objective.free]
    inflation, _ = _effective(solution.residuals, counts)
    curves = np.split(solution.residuals, np.cumsum(counts)[:-1])
    shares = [np.full(r.size, _share_within(r, objective.huber)) for r in curves]
    push = np.clip(solution.residuals, -objective.huber, objective.huber)
    rows = objective.prior(np.log(solution.values[objective.free]))[1]
    known = rows.T @ rows
    weight = objective.weight
    within = weight * np.concatenate(shares)
    curvature = (slopes * within[:, None]).T @ slopes + known
    scale = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    inverse = np.linalg.pinv(curvature / np.outer(scale, scale), rcond=1e-14)
    inverse /= np.outer(scale, scale)
    # A point that pulls the fit to itself leaves a residual that is too small by this share.
    leverage = np.clip(within * np.einsum("ij,jk,ik->i", slopes, inverse, slopes), 0.0, 0.95)
    push = push / (1 - leverage)
    spread = (slopes * (weight**2 * push**2 * inflation)[:, None]).T @ slopes + known
    covariance = inverse @ spread @ inverse
    # A direction that the pseudo-inverse drops is not known at all.
    dropped = np.abs(np.diag(inverse @ curvature) - 1) > 0.1
    covariance[dropped, dropped] = np.inf
    return covariance, np.diag(inverse @ known)


# By how much each residual counts less than an independent one, and how many there are in all.
def _effective(residuals: Floats, counts: Sequence[int]) -> tuple[Floats, float]:
    inflation, number = [], 0.0
    for raw in np.split(residuals, np.cumsum(counts)[:-1]):
        # Spikes would hide how alike the others are.
        far = CLIPPED * GAUSS * float(np.median(np.abs(raw)))
        r = np.clip(raw, -far, far)
        square = float(r @ r)
        alike = float(r[1:] @ r[:-1]) / square if square > 0 else 0.0
        alike = min(max(alike, 0.0), ALIKE)
        inflation.append(np.full(r.size, (1 + alike) / (1 - alike)))
        number += max(r.size * (1 - alike) / (1 + alike), 1.0)
    return np.concatenate(inflation), number


# The share of residuals within the Huber width, from a window wide enough to hold many.
def _share_within(residuals: Floats, huber: float) -> float:
    if not np.isfinite(huber):
        return 1.0
    size = np.abs(residuals)
    spread = GAUSS * float(np.median(size))
    window = max(huber, spread * residuals.size**-0.2)
    inside = float((size <= window).mean())
    return float(max(inside * huber / window, 1 / residuals.size))
