"""How much the loss rises from a point to others, with the sampling error of the difference."""

import math

import torch
from torch import Tensor

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate
from lossatlas.rng import generator


class BasePoint:
    """The loss at a point, against which others are measured.

    Args:
        objective: model, loss, batches.
        params: the point; the present weights by default.

    Raises:
        NonFiniteError: the loss at the point is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.
    """

    def __init__(self, objective: Objective, params: Params | None = None) -> None:
        self.objective = objective
        state = State(objective.params) if params is None else objective.split(params)
        self.here = {name: value.detach().clone() for name, value in state.params.items()}
        self._buffers = dict(state.buffers)
        self._single = objective.unit == "examples"
        self._base = self._losses(self.here)
        self.value = float(self._base.mean())
        if not math.isfinite(self.value):
            raise NonFiniteError(
                f"the loss at the point itself is {self.value}; there is nothing to rise from."
            )

    def _losses(self, params: Params) -> Tensor:
        params = {**params, **self._buffers} if self._buffers else params
        if self._single:
            return self.objective.example_losses(params)
        return torch.tensor([self.objective.value(params)], dtype=torch.float64)

    def rise(self, params: Params) -> Estimate:
        """The loss elsewhere minus the loss here, on the same examples."""
        difference = self._losses(params) - self._base
        if not bool(torch.isfinite(difference).all()):
            why = "the loss is not finite there"
            return Estimate(float(difference.mean()), math.nan, why_no_error=why)
        if self._single:
            return mean_of(difference.numpy(), 1)
        why = "the loss gives only means; let it return one number an example"
        return Estimate(float(difference.mean()), math.nan, 1, why_no_error=why)


def normal_like(params: Params, *seed: object) -> dict[str, Tensor]:
    """A standard normal draw."""
    return {
        name: torch.randn(
            value.shape,
            generator=generator(*seed, name, device=value.device),
            dtype=value.dtype,
            device=value.device,
        )
        for name, value in params.items()
    }
