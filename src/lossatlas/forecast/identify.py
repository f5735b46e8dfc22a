"""What the curves cannot tell: flat directions, limits, too few schedules."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve
from lossatlas.forecast.intervals import LeftOut
from lossatlas.forecast.law import Law, ScheduleLaw
from lossatlas.forecast.outliers import outstanding
from lossatlas.forecast.schedules import is_monotone
from lossatlas.forecast.solver import Solution

Floats = NDArray[np.float64]

LOOSE = float(np.log(2.0))  # a direction is flat where one deviation is a factor of two or more
OTHER_UNIT = 2.0  # losses of one law that differ by more than this are hardly in one unit


@dataclass(frozen=True)
class FlatDirection:
    """A change of parameters that the curves hardly feel.

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
            return f"{moves}: without bound"
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
    found = [
        FlatDirection(_named(names, row), float(spread))
        for row, spread in zip(rows[::-1], spreads[::-1], strict=True)
        if spread > LOOSE
    ]
    return tuple(found)


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
            out.append(
                f"{name} lies at its {'upper' if side > 0 else 'lower'} limit: "
                "the curves do not fix it"
            )
    out += [f"the curves leave free: {direction}" for direction in flat]
    for curve in curves:
        prefix = f"curve '{curve.name}': " if curve.name else ""
        out += [prefix + note for note in curve.notes]
    return tuple(out)


def spike_warnings(scores: Sequence[LeftOut]) -> tuple[str, ...]:
    """Which curves have spikes."""
    return tuple(
        f"curve '{row.name}': {row.spikes} losses stand far off their neighbors and are left "
        "out of its errors"
        for row in scores
        if row.spikes
    )


def _schedule_warnings(law: ScheduleLaw, curves: Sequence[Curve]) -> list[str]:
    out = []
    rated = [c.rates for c in curves if c.rates is not None]
    if law.needs and distinct_schedules(rated) == 1:
        out.append(
            f"all curves follow one schedule, which cannot identify {law.name}: how the loss "
            "answers another schedule is a guess; add a run with another schedule"
        )
    if rated and not any((np.diff(r) < 0).any() for r in rated) and law.needs:
        out.append("no curve lowers its rate: the gain from a decay is not identified")
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


def distinct_schedules(rates: Sequence[Floats]) -> int:
    """How many schedules differ from all before them where both have rates."""
    kept: list[Floats] = []
    for rate in rates:
        if not any(_same(rate, other) for other in kept):
            kept.append(rate)
    return len(kept)


def _same(a: Floats, b: Floats) -> bool:
    n = min(a.size, b.size)
    return bool(np.allclose(a[:n], b[:n], rtol=1e-2, atol=1e-2 * a.max()))


def _named(names: Sequence[str], row: Floats) -> dict[str, float]:
    row = row * np.sign(row[np.argmax(np.abs(row))])
    order = np.argsort(-np.abs(row), kind="stable")
    return {names[i]: float(row[i]) for i in order if abs(row[i]) > 0.1}
