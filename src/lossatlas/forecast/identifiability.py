"""How well the curves know each parameter: standard errors, flat directions, warnings.

The estimate minimizes a sum of Huber losses, so its covariance is the sandwich H^-1 M H^-1: H
is the curvature of the objective, M the spread of its gradient. Residuals of one curve follow
each other; M is widened by (1 + phi) / (1 - phi), with phi the correlation of neighbors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve
from lossatlas.forecast.law import Law, ScheduleLaw
from lossatlas.forecast.same_schedule import distinct_schedules
from lossatlas.forecast.schedules import is_monotone
from lossatlas.forecast.solver import HuberObjective, Solution
from lossatlas.forecast.validation import LeftOut
from lossatlas.forecast.watch import ALIKE, outstanding
from lossatlas.intervals import t_quantile
from lossatlas.io.records import record
from lossatlas.robust import GAUSS
from lossatlas.text import count as counted

Floats = NDArray[np.float64]

LOOSE = float(np.log(2.0))  # a direction is flat where one deviation is a factor of two or more
OTHER_UNIT = 2.0  # losses of one law that differ by more than this are hardly in one unit


@record
@dataclass(frozen=True)
class FlatDirection:
    """A change of parameters that hardly changes the fitted curves.

    Attributes:
        weights: parameter -> its share in the direction (a unit vector of logarithms); shares
            below 0.1 are left out.
        spread: one standard deviation along it, in e-folds; inf where the data say nothing.
    """

    weights: dict[str, float]
    spread: float

    def __str__(self) -> str:
        """Returns a phrase as in "C up with beta down: a factor of 5.2"."""
        moves = " with ".join(
            f"{name} {'up' if share > 0 else 'down'}" for name, share in self.weights.items()
        )
        if not np.isfinite(self.spread) or self.spread > 20:
            return f"{moves}: any change, the curves do not limit it"
        return f"{moves}: a factor of {np.exp(self.spread):.3g}"


def flat_directions(
    law: Law, solution: Solution, counts: Sequence[int]
) -> tuple[FlatDirection, ...]:
    """Directions that the residuals leave loose, the prior left aside."""
    active = np.abs(solution.jacobian).max(axis=0) > 0
    names = [name for name, keep in zip(law.parameters, active, strict=True) if keep]
    weight = np.repeat(1 / np.asarray(counts), counts)
    jacobian = solution.jacobian[:, active] * np.sqrt(weight)[:, None]
    edges = np.cumsum(counts)[:-1]
    spiked = np.concatenate([outstanding(r) for r in np.split(solution.residuals, edges)])
    noise = np.sqrt(
        (weight * np.where(spiked, 0.0, solution.residuals) ** 2).sum() / len(counts)
    )
    _, singular, rows = np.linalg.svd(jacobian, full_matrices=False)
    with np.errstate(divide="ignore"):
        spreads = noise / singular
    directions = [
        FlatDirection(_named(names, row), float(spread))
        for row, spread in zip(rows[::-1], spreads[::-1], strict=True)
        if spread > LOOSE
    ]
    return tuple(directions)


def fit_warnings(
    law: Law, solution: Solution, curves: Sequence[Curve], flat: Sequence[FlatDirection]
) -> tuple[str, ...]:
    """What a user must know before trusting the fit, in sentences."""
    out: list[str] = []
    if isinstance(law, ScheduleLaw):
        out += _schedule_warnings(law, curves)
    if not solution.converged:
        out.append("the fit stopped before it converged; its parameters are not a minimum")
    for name, side in zip(law.parameters, solution.at_limit, strict=True):
        if side:
            out.append(_limit_warning(name, is_upper=side > 0))
    out += map(_flat_warning, flat)
    for curve in curves:
        prefix = f"curve '{curve.name}': " if curve.name else ""
        out += [prefix + note for note in curve.notes]
    return tuple(out)


def shown_elsewhere(
    law: Law, flat: Sequence[FlatDirection], *, is_of_one_schedule: bool
) -> frozenset[str]:
    """Warnings of a fit that its headline, its parameters or its tables show."""
    limits = [
        _limit_warning(name, is_upper=upper)
        for name in law.parameters for upper in (False, True)
    ]  # fmt: skip
    return frozenset([
        *limits, *map(_flat_warning, flat), *[_one_schedule_warning(law)] * is_of_one_schedule,
    ])  # fmt: skip


def _limit_warning(name: str, *, is_upper: bool) -> str:
    return (
        f"{name} ended at the {'upper' if is_upper else 'lower'} limit of its range: these "
        "curves do not determine it"
    )


def _flat_warning(direction: FlatDirection) -> str:
    return f"the curves do not determine {direction}"


def _one_schedule_warning(law: Law) -> str:
    return (
        f"all curves follow one schedule, from which {law.name} cannot tell what another "
        "schedule would do; add a run with another schedule"
    )


def spike_warnings(scores: Sequence[LeftOut]) -> tuple[str, ...]:
    """Which curves have spikes."""
    return tuple(
        f"curve '{row.name}': {counted(row.spikes, 'loss', 'losses')} far off the neighbors "
        "left out of its errors"
        for row in scores
        if row.spikes
    )


def _schedule_warnings(law: ScheduleLaw, curves: Sequence[Curve]) -> list[str]:
    out = []
    rated = [c.lr for c in curves if c.lr is not None]
    if law.needs and distinct_schedules(curves) == 1:
        out.append(_one_schedule_warning(law))
    if rated and not any((np.diff(r) < 0).any() for r in rated) and law.needs:
        out.append("no run lowers its learning rate: what lowering it gains is not known")
    peaks = [float(r.max()) for r in rated]
    if peaks and max(peaks) > 1.01 * min(peaks):
        out.append(
            f"peak rates differ ({min(peaks):g} to {max(peaks):g}); the law holds for one peak"
        )
    sizes = {float(c.size[0]) for c in curves if c.size is not None}
    if len(sizes) > 1:
        out.append(f"{len(sizes)} model sizes in one fit; the law holds for one size")
    if any(not is_monotone(r) for r in rated):
        out.append("a schedule rises after its warm-up; the law is untested there")
    out += _unit_warnings(curves)
    return out


def _unit_warnings(curves: Sequence[Curve]) -> list[str]:
    medians = np.array([np.median(c.loss) for c in curves])
    middle = np.median(medians)
    return [
        f"the losses of curve '{c.label}' are {m / middle:.2g} times those of the others: "
        "another unit (perplexity, bits), or another data set?"
        for c, m in zip(curves, medians, strict=True)
        if not 1 / OTHER_UNIT < m / middle < OTHER_UNIT
    ]


def _named(names: Sequence[str], row: Floats) -> dict[str, float]:
    row = row * np.sign(row[np.argmax(np.abs(row))])
    order = np.argsort(-np.abs(row), kind="stable")
    return {names[i]: float(row[i]) for i in order if abs(row[i]) > 0.1}


TIED = 0.3  # share of the variance that comes from parameters which are not known themselves
FARTHEST = 20.0  # e-folds: more is no bound at all
CLIPPED = 4.0  # robust deviations at which residuals are cut for the correlation of neighbors
HELD = 0.5  # share of what is known of a parameter that may come from the prior


@record
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
    objective: HuberObjective, solution: Solution, counts: Sequence[int]
) -> tuple[ParameterError, ...]:
    """The standard error of every parameter, or why there is none."""
    free = np.flatnonzero(objective.free)
    reasons = ["it was given"] * objective.free.size
    errors = np.full(len(reasons), np.nan)
    degrees = _effective(solution.residuals, counts)[1] - free.size
    if degrees < 1:
        for i in free:
            reasons[i] = "too few independent residuals to estimate its error"
    elif free.size:
        covariance, held = _sandwich(objective, solution, counts)
        errors[free] = np.sqrt(np.diag(covariance))
        why = _reasons(objective, solution, covariance, held)
        for i, reason in zip(free, why, strict=True):
            reasons[i] = reason
    return tuple(
        ParameterError(name, float("nan") if reason else float(error), float(degrees), reason)
        for name, error, reason in zip(objective.law.parameters, errors, reasons, strict=True)
    )


# Why a free parameter has no interval: its limit, no information, the prior, or a neighbor.
def _reasons(
    objective: HuberObjective, solution: Solution, covariance: Floats, held: Floats
) -> list[str]:
    names = [
        n for n, free in zip(objective.law.parameters, objective.free, strict=True) if free
    ]
    errors = np.sqrt(np.diag(covariance))
    limit = solution.at_limit[objective.free] != 0
    reasons = []
    for error, at_limit, share in zip(errors, limit, held, strict=True):
        factor = (
            "any value fits" if not error < FARTHEST
            else f"its standard error is a factor of {np.exp(error):.3g}"
        )  # fmt: skip
        reason = "its value comes from the prior, not from these curves" if share > HELD else ""
        reason = reason if error <= LOOSE else f"these curves do not determine it: {factor}"
        reasons.append(
            "it ended at the limit of its range: these curves do not determine it"
            if at_limit
            else reason
        )
    lost = np.flatnonzero(limit | ~(errors <= LOOSE))
    for i in range(len(names)):
        if lost.size and not reasons[i] and not _shared(covariance, i, lost) <= TIED:
            reasons[i] = (
                f"a change of it can be offset by {names[lost[0]]}, which these curves do not "
                "determine"
            )
    return reasons


# The share of a parameter's variance that comes from others; NaN where theirs is not known.
def _shared(covariance: Floats, i: int, others: NDArray[np.int64]) -> float:
    inner, ties = covariance[np.ix_(others, others)], covariance[i, others]
    if not np.isfinite(inner).all():
        return float("nan")
    return float(ties @ np.linalg.pinv(inner, rcond=1e-12) @ ties / covariance[i, i])


# The covariance of the free logarithms, and the share of each that the prior holds.
def _sandwich(
    objective: HuberObjective, solution: Solution, counts: Sequence[int]
) -> tuple[Floats, Floats]:
    slopes = solution.jacobian[:, objective.free]
    inflation, _ = _effective(solution.residuals, counts)
    curves = np.split(solution.residuals, np.cumsum(counts)[:-1])
    shares = [np.full(r.size, _share_within(r, objective.huber)) for r in curves]
    push = np.clip(solution.residuals, -objective.huber, objective.huber)
    rows = objective.prior(np.log(solution.values[objective.free]))[1]
    informed = rows.T @ rows
    weight = objective.weight
    within = weight * np.concatenate(shares)
    curvature = (slopes * within[:, None]).T @ slopes + informed
    scale = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    inverse = np.linalg.pinv(curvature / np.outer(scale, scale), rcond=1e-14)
    inverse /= np.outer(scale, scale)
    # A point that pulls the fit to itself leaves a residual that is too small by this share.
    leverage = np.clip(within * np.einsum("ij,jk,ik->i", slopes, inverse, slopes), 0.0, 0.95)
    push = push / (1 - leverage)
    spread = (slopes * (weight**2 * push**2 * inflation)[:, None]).T @ slopes + informed
    covariance = inverse @ spread @ inverse
    # A direction that the pseudo-inverse drops is not known at all.
    dropped = np.abs(np.diag(inverse @ curvature) - 1) > 0.1
    covariance[dropped, dropped] = np.inf
    return covariance, np.diag(inverse @ informed)


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
