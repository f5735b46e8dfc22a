"""Losses at several weights on the same examples: differences with paired errors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate
from lossatlas.weights.places import slabs
from lossatlas.weights.unfinished import Unfinished

Array = NDArray[np.float64]
EQUAL = "equal up to rounding error"
# Units in the last place that a mean of losses may be off by.
_ULPS = 8
_ONE_UNIT = "one batch mean has no spread; return one loss an example"


class PairedLosses:
    """Losses of the same units (examples, or batches) wherever the weights are.

    Args:
        objective: model, loss and batches.
        unfinished: where finished losses are.
    """

    def __init__(self, objective: Objective, unfinished: Unfinished | None = None) -> None:
        self._objective, self._unfinished = objective, unfinished or Unfinished(None, {})
        self.weights: Array = np.zeros(0)

    def sums(self, params: Params) -> Array:
        """The loss of each unit times its weight, shape (units,)."""
        sums, weights = self._pairs(params)
        self.weights = weights
        return sums

    def sums_once(self, name: str, params: Callable[[], Params]) -> Array:
        """As `sums`, unless losses of that name were kept: then they are read."""
        pair = self._unfinished.once(name, lambda: np.stack(self._pairs(params())))
        self.weights = pair[1]
        sums: Array = pair[0]
        return sums

    def _pairs(self, params: Params) -> tuple[Array, Array]:
        objective = self._objective
        if objective.unit == "examples":
            pairs = objective.example_pairs(params)
            return pairs.sums.numpy(), pairs.weights.numpy()
        with torch.no_grad():
            totals = objective.with_params(
                params, lambda: [objective.total(b) for b in objective.iter_batches()]
            )
        sums = np.array([float(total.sum) for total in totals])
        return sums, np.array([total.weight for total in totals])

    def difference(
        self, first: Array, second: Array, name: str = "", unit: str = ""
    ) -> Estimate:
        """The mean of the first minus that of the second; 0 where only rounding is left."""
        gap = self.mean(first - second, name, unit)
        sizes = (float(np.abs(each).sum()) for each in (first, second))
        return rounded_away(self._objective, gap, max(sizes) / float(self.weights.sum()))

    def mean(
        self, sums: Array, name: str = "", unit: str = "", *, skewed: bool = False
    ) -> Estimate:
        """The mean over all units, with the error of a ratio of sums of independent units."""
        # Losses are skewed, and their intervals allow for that; differences are symmetric.
        weights, count = self.weights, int(np.count_nonzero(self.weights))
        value = float(sums.sum() / weights.sum())
        if count < 2 or not math.isfinite(value):
            why = _ONE_UNIT if count < 2 else "a loss is not finite"
            return Estimate(value, why_no_error=why, name=name, unit=unit)
        residuals = sums - value * weights
        squares, total = float(np.square(residuals).sum()), float(weights.sum())
        spread = math.sqrt(count / (count - 1) * squares)
        return Estimate(
            value,
            spread / total,
            samples=round(total**2 / float(np.square(weights).sum())),
            skewness=_skewness(residuals, weights, squares) if skewed else 0.0,
            sample_unit=self._objective.unit,
            name=name,
            unit=unit,
        )


def rounded_away(objective: Objective, gap: Estimate, scale: float) -> Estimate:
    """A difference of losses of that scale; exactly 0 where it is below their rounding."""
    spread = gap.stderr if math.isfinite(gap.stderr) else 0.0
    is_known = math.isfinite(gap.value)
    if is_known and abs(gap.value) + spread <= _rounding(objective) * scale:
        return replace(gap, value=0.0, stderr=0.0, skewness=0.0, why_no_error=EQUAL)
    return gap


def _rounding(objective: Objective) -> float:
    # Losses of narrower weights are taken in float32.
    types = {value.dtype for value in objective.params.values() if value.is_floating_point()}
    return _ULPS * torch.finfo(torch.float64 if types == {torch.float64} else torch.float32).eps


def _skewness(residuals: Array, weights: Array, squares: float) -> float:
    # Of a ratio of sums, as in `objective.standard_errors`; rounding alone has none.
    if not squares > 0:
        return 0.0
    cubes, tilt = float((residuals**3).sum()), float((residuals * weights).sum())
    scale = math.sqrt(squares)
    return cubes / scale**3 - 3 * tilt / float(weights.sum()) / scale


def halfway(first: Params, second: Params) -> dict[str, torch.Tensor]:
    """The mean of two points; what is not floating point is that of the first."""
    return blend([first, second], [0.5, 0.5])


def blend(points: Sequence[Params], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """An affine combination of points (shares sum to 1), in the dtype of the first."""
    first, *others = points
    mixed = {}
    for name, value in first.items():
        if not (value.is_floating_point() or value.is_complex()):
            mixed[name] = value
            continue
        # From the first: equal points give that point, to the last bit.
        total = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
        for point, share in zip(others, shares[1:], strict=True):
            # Piece by piece: differences of large tensors take no room.
            for into, new, old in zip(*map(_pieces, (total, point[name], value)), strict=True):
                into.add_(new.to(total.dtype) - old.to(total.dtype), alpha=share)
        mixed[name] = total.to(value.dtype)
    return mixed


def _pieces(tensor: torch.Tensor) -> list[torch.Tensor]:
    return list(slabs(tensor))
