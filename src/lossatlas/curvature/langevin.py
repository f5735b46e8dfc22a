"""Langevin chains around the weights of a model."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import to_device
from lossatlas.objective.point import State

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Of each draw: b (L - L(w*)), and a control variate of mean zero."""

    rises: Array
    controls: Array


class LangevinChain:
    """Samples exp(-b L(w) - g |w - w*|^2 / 2) by the scheme of Leimkuhler and Matthews.

    With drift G = b grad L + g (w - w*) and normal r_k,

        w_{k+1} = w_k - step / 2 G(w_k) + sqrt(step) (r_k + r_{k+1}) / 2.

    Plain Langevin steps have the noise sqrt(step) r_k and sample variances that are too large
    by a share step x curvature / 4. Here the average of two draws makes Gaussians exact at
    every stable step, and others up to order step^2, for the same gradients.

    By partial integration (w - w*) . G has mean d in d dimensions, which gives the control
    variate.

    Args:
        objective: model, loss and batches.
        state: the center w* and its buffers.
        beta: b.
        localization: g.
        single: take the gradient of one batch a step.

    Source: Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34-56.
    """

    def __init__(
        self,
        objective: Objective,
        state: State,
        beta: float,
        localization: float,
        *,
        single: bool,
    ) -> None:
        self.objective, self.beta, self.localization = objective, beta, localization
        self._buffers = state.buffers
        self.center = {n: v.detach().clone() for n, v in state.params.items()}
        self._batches: list[Batch] = objective.map_batches(lambda b: b) if single else []
        choices = range(max(len(self._batches), 1))
        with torch.no_grad():
            self._base = [self._loss_and_slopes(self.center, k)[0] for k in choices]
        self.step = 0.0

    def rounding(self, rise: float) -> float:
        """What all draws of a mean rise share: rounding of the loss at w* and of their own."""
        kinds = [v.dtype for v in self.center.values() if v.is_floating_point()]
        share = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
        return share * (self.beta * max(map(abs, self._base)) + abs(rise))

    def run(self, burn_in: int, draws: int, drawn: torch.Generator) -> Trajectory:
        """Walk from the weights; what comes before `burn_in` is dropped."""
        point = {n: v.clone() for n, v in self.center.items()}
        rows = np.array([self.advance(point, drawn) for _ in range(burn_in + draws)])
        kept = rows[burn_in:]
        if not np.isfinite(kept).all():
            raise NonFiniteError(
                "a chain met a loss that is not finite; take a smaller `step` or a larger "
                "`localization`."
            )
        return Trajectory(*kept.T)

    def advance(self, point: dict[str, Tensor], drawn: torch.Generator) -> tuple[float, float]:
        """One step, in place; b times the rise of the loss, and the control."""
        # Between calls `point` is half a draw behind the chain, which is how noise is averaged.
        chosen = 0
        if len(self._batches) > 1:
            chosen = int(torch.randint(len(self._batches), (), generator=drawn))
        half, kicks = math.sqrt(self.step) / 2, {}
        for name, value in point.items():
            kick = torch.randn(value.shape, generator=drawn, dtype=value.dtype)
            kicks[name] = kick.to(value.device)
            value.add_(kicks[name], alpha=half)
        loss, slopes = self._loss_and_slopes(point, chosen)
        control = 0.0
        for name, value in point.items():
            away = value - self.center[name]
            drift = self.beta * slopes[name] + self.localization * away
            control += _dot(away, drift) - value.numel()
            value.add_(drift, alpha=-self.step / 2).add_(kicks[name], alpha=half)
        return self.beta * (loss - self._base[chosen]), control

    def slopes(self) -> dict[str, Tensor]:
        """The gradient at the weights over all batches."""
        return self.objective.gradient(self.whole(self.center))

    def whole(self, point: Params) -> Params:
        """A point with the buffers that go with the weights."""
        return {**point, **self._buffers}

    def _loss_and_slopes(
        self, point: dict[str, Tensor], chosen: int
    ) -> tuple[float, dict[str, Tensor]]:
        leaves = {
            n: v.detach().requires_grad_(torch.is_grad_enabled()) for n, v in point.items()
        }
        sums = {n: torch.zeros_like(v) for n, v in point.items()}

        def walk() -> tuple[float, float]:
            loss = weight = 0.0
            for batch in self._walked(chosen):
                total = self.objective.total(batch)
                loss, weight = loss + float(total.sum.detach().double()), weight + total.weight
                if total.sum.requires_grad:
                    parts = torch.autograd.grad(
                        total.sum, list(leaves.values()), allow_unused=True
                    )
                    for value, part in zip(sums.values(), parts, strict=True):
                        if part is not None:
                            value.add_(part)
            return loss, weight

        loss, weight = self.objective.with_params(self.whole(leaves), walk)
        return loss / weight, {n: v.div_(weight) for n, v in sums.items()}

    def _walked(self, chosen: int) -> Iterable[Batch]:
        if not self._batches:
            return self.objective.iter_batches()
        return [to_device(self._batches[chosen], self.objective.device)]


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())
