"""The loss at the weights beside that of a constant prediction: was anything learned?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import AtlasError, DataError
from lossatlas.io.records import record
from lossatlas.objective.batches import Batch
from lossatlas.objective.determinism import check_loss
from lossatlas.objective.guessing import guessed_classes
from lossatlas.objective.objective import Objective
from lossatlas.objective.weighted import Total, total_of
from lossatlas.text import number, with_error

Floats = NDArray[np.float64]
# A loss is below that of equal probabilities from this share on: fresh weights cost a little
# more or less.
NEAR_CHANCE = 0.02
# Outputs of more elements are not fitted by a constant: that would cost as much as the model.
_MAX_ELEMENTS = 5_000_000
# A constant that is perfect tells nothing: all targets are alike, or there are none.
_PERFECT = 1e-6
# What a fitted constant and a loss may differ by and still be one number.
_ROUNDING = 1e-6
_ITERATIONS = 50


@record
@dataclass(frozen=True, eq=False)
class ChanceLevel:
    """A loss and that of the best constant prediction on the same data.

    Attributes:
        loss: at the weights.
        stderr: its standard error; NaN where unknown.
        samples: how many examples (or batches) it comes from.
        constant: the lowest loss that outputs can have which are the same for every input; of
            language models that of equal probabilities.
        zero: the loss of outputs that are all zero, near which initial weights are.
        is_guessed: whether the constant is the loss of equal probabilities, not the lowest one.

    Examples:
        >>> ChanceLevel(2.4, 0.05, 400, 2.3).is_at_chance
        True
    """

    loss: float
    stderr: float
    samples: int
    constant: float
    zero: float = math.nan
    is_guessed: bool = False

    @property
    def is_at_chance(self) -> bool:
        """Whether the loss is not below that of the constant prediction."""
        if not math.isfinite(self.loss):
            return True
        # Losses of one network vary little over examples as long as it says the same of all:
        # a loss below the constant is one that was learned, whatever its standard error.
        allowed = NEAR_CHANCE if self.is_guessed else _ROUNDING
        return self.loss >= self.constant - allowed * abs(self.constant)

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        return (
            f"These weights predict no better than a constant: their loss is "
            f"{with_error(self.loss, self.stderr)}, that of the best constant prediction "
            f"{number(self.constant, 3)}"
        )


def chance_level(objective: Objective) -> ChanceLevel | None:
    """The loss beside that of a constant prediction; None where the latter is not known."""
    constant_losses = _constant_losses(objective)
    if constant_losses is None:
        return None
    is_guessed = guessed_classes(objective.model) is not None
    try:
        loss = objective.evaluate()
    except AtlasError:
        return None
    return ChanceLevel(loss.value, loss.stderr, loss.samples, *constant_losses, is_guessed)


# Of the best constant, and of zero.
def _constant_losses(objective: Objective) -> tuple[float, float] | None:
    classes = guessed_classes(objective.model)
    if classes is not None:
        return math.log(classes), math.log(classes)
    if objective.shared is not None or objective.placed is not None:
        return None
    try:
        losses = _fitted(objective)
    except Exception:
        # A loss that needs more of a model than its outputs has no constant to compare with.
        return None
    return losses if math.isfinite(losses[0]) and losses[0] > _PERFECT else None


class _Recorder:
    # In the place of a model: notes the outputs of each call.
    def __init__(self, model: Any) -> None:
        self.model, self.outputs = model, list[Tensor]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.outputs.append(self.model(*args, **kwargs))
        return self.outputs[-1]


def _fitted(objective: Objective) -> tuple[float, float]:
    seen: list[tuple[Batch, Tensor]] = []

    def look() -> None:
        for batch in objective.iter_batches():
            recorder = _Recorder(objective.model)
            objective.loss(recorder, objective.handed(batch))  # type: ignore[arg-type]
            (outputs,) = recorder.outputs
            seen.append((batch, outputs.new_zeros(1).expand(outputs.shape)))
            if sum(each.numel() for _, each in seen) > _MAX_ELEMENTS:
                raise DataError("there are too many outputs for a constant to be fitted.")

    def mean(constant: Tensor) -> Tensor:
        totals = [_total(objective, batch, constant, like) for batch, like in seen]
        return torch.stack([each.sum for each in totals]).sum() / sum(t.weight for t in totals)

    with objective.session():
        with torch.no_grad():
            objective.with_params(None, look)
        like = seen[0][1]
        zero = like.new_zeros(like.shape[1] if like.ndim > 1 else 1)
        return _minimum(mean, zero), float(mean(zero))


def _total(objective: Objective, batch: Batch, constant: Tensor, like: Tensor) -> Total:
    # One number a class or channel, which is axis 1.
    shape = (1, -1, *[1] * (like.ndim - 2)) if like.ndim > 1 else (-1,)
    outputs = constant.reshape(shape).expand(like.shape)
    given = objective.loss(lambda *_, **__: outputs, objective.handed(batch))  # type: ignore[arg-type]
    return total_of(check_loss(given, batch), objective.size_of(batch))


def _minimum(function: Callable[[Tensor], Tensor], start: Tensor) -> float:
    from scipy.optimize import minimize

    def at(values: Floats) -> tuple[float, Floats]:
        point = torch.as_tensor(values).to(start).requires_grad_()
        with torch.enable_grad():
            value = function(point)
            (slope,) = torch.autograd.grad(value, [point])
        return float(value.detach()), slope.double().cpu().numpy()

    limits = {"maxiter": _ITERATIONS}
    found = minimize(at, np.zeros(len(start)), jac=True, method="L-BFGS-B", options=limits)
    return float(found.fun)
