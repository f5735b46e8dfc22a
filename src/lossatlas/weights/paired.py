"""Losses at several weights on the same examples: differences with paired errors."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate

Array = NDArray[np.float64]
_ONE_UNIT = "one batch mean has no spread; return one loss an example"


class PairedLosses:
    """Losses of the same units (examples, or batches) wherever the weights are.

    Args:
        objective: model, loss and batches.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.weights: Array = np.zeros(0)

    def sums(self, params: Params) -> Array:
        """The loss of each unit times its weight, shape (units,)."""
        sums, weights = self._pairs(params)
        self.weights = weights
        return sums

    def _pairs(self, params: Params) -> tuple[Array, Array]:
        objective = self._objective
        if objective.unit == "examples":
            pairs = objective.example_pairs(params)
            return pairs.sums.numpy(), pairs.weights.numpy()
        with torch.no_grad():
            totals = objective.at(
                params, lambda: [objective.total(b) for b in objective.each_batch()]
            )
        sums = np.array([float(total.sum) for total in totals])
        return sums, np.array([total.weight for total in totals])

    def mean(self, sums: Array, name: str = "", **labels: str) -> Estimate:
        """The mean over all units of what `sums` holds, with its error.

        The error is that of a ratio of sums: residuals are linearized, units are independent.
        """
        weights, count = self.weights, int(np.count_nonzero(self.weights))
        value = float(sums.sum() / weights.sum())
        if count < 2:
            return Estimate(value, why_no_error=_ONE_UNIT, name=name, **labels)
        residuals = sums - value * weights
        spread = float(np.sqrt(count / (count - 1) * np.square(residuals).sum()))
        effective = round(float(weights.sum() ** 2 / np.square(weights).sum()))
        return Estimate(
            value, spread / float(weights.sum()), samples=effective, name=name, **labels
        )


def halfway(first: Params, second: Params) -> dict[str, torch.Tensor]:
    """The mean of two points; what is not floating point is that of the first."""
    return blend([first, second], [0.5, 0.5])


def blend(points: Sequence[Params], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """A weighted sum of points, in the dtype of the first."""
    first, *others = points
    mixed = {}
    for name, value in first.items():
        if not (value.is_floating_point() or value.is_complex()):
            mixed[name] = value
            continue
        total = value.to(torch.promote_types(value.dtype, torch.float32)) * shares[0]
        for point, share in zip(others, shares[1:], strict=True):
            total.add_(point[name], alpha=share)
        mixed[name] = total.to(value.dtype)
    return mixed
