"""Maps by refinement: compute what cannot be interpolated, and measure the error of the rest.

Losses are smooth at the scale of a picture. A coarse grid is computed first; each finer level
scores the spline through the one before on points it has not seen. Where the measured error
is below the tolerance everywhere, refinement stops; where it is not, the rough parts are
computed and the smooth parts are carried on. Nothing is interpolated across walls (points
whose loss is not finite).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lossatlas.landscape.interpolant import (
    Knots,
    corrected,
    interpolate,
    levels,
    product,
    smooth,
)
from lossatlas.rng import derive_seed

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
# Held-out points a level: enough to trust their errors, few beside the level itself.
_SCORED = 40
# No held-out point may be off by more than this many times the tolerance. Errors of a spline
# sit where the ground is steepest, so that their root mean square is far below the largest.
_WORST = 4.0
_LOST = 0.5


@dataclass(frozen=True)
class Refined:
    """A map made by refinement.

    Attributes:
        values: shape (*grid, columns).
        computed: which points were evaluated.
        error: the largest error of column 0 at held-out points that stand for the rest.
        rms: the root mean square of those errors.
        held_out: how many points that were.
    """

    values: Array
    computed: Mask
    error: float
    rms: float
    held_out: int


class _Grid:
    """What is known so far."""

    def __init__(
        self,
        evaluate: Callable[[NDArray[np.intp]], Array],
        shape: tuple[int, ...],
        columns: int,
    ) -> None:
        self._evaluate = evaluate
        self.shape = shape
        self.values = np.full((*shape, columns), np.nan)
        self.computed = np.zeros(shape, dtype=bool)

    def compute(self, where: Mask) -> None:
        places = np.argwhere(where & ~self.computed)
        if len(places):
            self.values[tuple(places.T)] = self._evaluate(places)
            self.computed[tuple(places.T)] = True

    @property
    def losses(self) -> Array:
        return self.values[..., 0]

    def walls(self) -> Mask:
        return self.computed & ~np.isfinite(self.losses)


def refine(
    evaluate: Callable[[NDArray[np.intp]], Array],
    shape: tuple[int, ...],
    columns: int,
    tolerance: Callable[[Array], float],
    *,
    seed: int = 0,
) -> Refined:
    """Fill a grid by refinement.

    Args:
        evaluate: gives the columns of some points, from indices of shape (points, dimension).
        shape: points along each direction.
        columns: how many numbers a point has; column 0 is what errors are measured on.
        tolerance: the root mean square error to reach, from all values computed so far, shape
            (points, columns); four times as much is the most for a single held-out point.
        seed: chooses the held-out points.

    Returns:
        The map; walls and kinks are computed, the rest is interpolated.
    """
    grid = _Grid(evaluate, shape, columns)
    ladder = _ladder(shape)
    grid.compute(product(ladder[0], shape))
    before = {"spline": _spline(grid.values, ladder[0], shape, degree=1)}
    now, kind = _surfaces(grid, grid.values, ladder[0]), "spline"
    scores: list[Array] = []
    for number, knots in enumerate(ladder[1:], 1):
        target = _reachable(tolerance(grid.values[grid.computed]), grid.losses)
        sample = _sample(grid, knots, _doubt(now, before), number, seed)
        grid.compute(sample)
        kind, errors = _nearest(grid, now, sample)
        worst = _WORST * target
        if (
            errors.max(initial=0.0) <= worst
            and _rms(errors) <= target
            and not grid.walls().any()
        ):
            scores.append(errors)
            break
        failing = np.zeros(shape, dtype=bool)
        failing[sample] = errors > worst
        doubt = _doubt(now, before)
        rough = _near(failing | (_trust(errors, doubt[sample]) * doubt > worst), knots)
        if np.mean(errors[np.isfinite(errors)] > worst) > _LOST:
            # Most held-out points fail: the level says nothing about what lies between.
            rough = np.ones(shape, dtype=bool)
        rough |= _near(grid.walls(), knots, steps=3)
        grid.compute(rough & product(knots, shape))
        scores.append(errors[~rough[sample]])
        filled = np.where(grid.computed[..., None], grid.values, now[kind])
        before, now = now, _surfaces(grid, filled, knots)
    return _finished(grid, now["spline"], scores, is_smooth=kind == "smooth")


def _spline(values: Array, knots: Knots, shape: tuple[int, ...], degree: int = 3) -> Array:
    return interpolate(values[np.ix_(*knots)], knots, shape, degree)


def _surfaces(grid: _Grid, filled: Array, knots: Knots) -> dict[str, Array]:
    # What may lie between the points: splines, and a radial function where there can be one.
    bent = smooth(grid.computed, grid.values)
    spline = _spline(filled, knots, grid.shape)
    return {"spline": spline} | ({} if bent is None else {"smooth": bent})


def _doubt(now: dict[str, Array], before: dict[str, Array]) -> Array:
    return np.abs(now["spline"] - before["spline"])[..., 0]


def _nearest(grid: _Grid, now: dict[str, Array], sample: Mask) -> tuple[str, Array]:
    # Whichever was nearer to what neither had seen.
    errors = {kind: _errors(grid, surface, sample) for kind, surface in now.items()}
    kind = min(errors, key=lambda kind: _rms(errors[kind]))
    return kind, errors[kind]


def _ladder(shape: tuple[int, ...]) -> list[Knots]:
    each = [levels(points) for points in shape]
    height = max(len(rungs) for rungs in each)
    return [[rungs[min(k, len(rungs) - 1)] for rungs in each] for k in range(height)]


def _sample(grid: _Grid, knots: Knots, doubt: Array, number: int, seed: int) -> Mask:
    unseen = np.argwhere(product(knots, grid.shape) & ~grid.computed)
    if number > 1 and len(unseen) > _SCORED:
        # Half where two levels differ most, half anywhere: the largest error is sought.
        order = np.argsort(-doubt[tuple(unseen.T)], kind="stable")
        rest = np.random.default_rng(derive_seed(seed, "held out", number)).permutation(
            order[_SCORED // 2 :]
        )
        unseen = unseen[np.concatenate([order[: _SCORED // 2], rest[: _SCORED // 2]])]
    sample = np.zeros(grid.shape, dtype=bool)
    sample[tuple(unseen.T)] = True
    return sample


def _errors(grid: _Grid, guess: Array, sample: Mask) -> Array:
    with np.errstate(invalid="ignore"):
        errors = np.abs(grid.losses - guess[..., 0])[sample]
    return np.where(np.isfinite(errors), errors, np.inf)


def _reachable(target: float, losses: Array) -> float:
    # A flat map has no range to take a share of; rounding is not roughness.
    finite = losses[np.isfinite(losses)]
    return max(target, 1e-9 * float(np.abs(finite).max(initial=0.0)))


def _rms(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0


def _trust(errors: Array, doubt: Array) -> float:
    """How large errors are beside the difference of two levels: 1/16 if smooth, 1/2 at kinks.

    Args:
        errors: measured at some points.
        doubt: difference of the two levels at those points.

    Returns:
        A factor from 0 to 1 for the points that were not measured.
    """
    usable = np.isfinite(errors) & (doubt > 0)
    return (
        min(1.0, float(np.quantile(errors[usable] / doubt[usable], 0.9)))
        if usable.any()
        else 1.0
    )


def _near(where: Mask, knots: Knots, steps: int = 1) -> Mask:
    gap = max(int(np.diff(rows).max()) for rows in knots if len(rows) > 1)
    box = np.ones((3,) * where.ndim, dtype=bool)
    return np.asarray(binary_dilation(where, box, iterations=steps * gap))


def _finished(grid: _Grid, spline: Array, scores: list[Array], *, is_smooth: bool) -> Refined:
    errors = np.concatenate([*scores, np.zeros(0)])
    missing = not grid.computed.all()
    bent = smooth(grid.computed, grid.values) if is_smooth else None
    values = corrected(spline, grid.computed, grid.values) if bent is None else bent
    return Refined(
        values=values,
        computed=grid.computed,
        error=float(errors.max(initial=0.0)) if missing else 0.0,
        rms=_rms(errors) if missing else 0.0,
        held_out=int(errors.size) if missing else 0,
    )
