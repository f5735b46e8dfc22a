"""The loss at the weights beside that of a constant prediction: was anything learned?"""

import logging
import math
from collections.abc import Callable, Mapping
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

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]
# A loss is below that of equal probabilities from this share on: fresh weights cost a little
# more or less.
NEAR_CHANCE = 0.02
# Outputs of more elements are not fitted by a constant: that would cost as much as the model.
_MAX_ELEMENTS = 5_000_000
# Fewer predictions per class than this fit a constant to the examples, not to their kind.
_MIN_PREDICTIONS = 10
# A constant with zero loss is uninformative: all targets are equal.
_PERFECT = 1e-6
# What a fitted constant and a loss may differ by and still be one number.
_ROUNDING = 1e-6
_ITERATIONS = 50


@record
@dataclass(frozen=True, eq=False)
class ChanceLevel:
    """A loss and that of the best constant prediction on the same data.

    With class frequencies p the constant of a cross entropy is -sum(p log p), that of squares
    the variance of the targets; of other losses it is minimized numerically.

    Attributes:
        loss: at the weights.
        stderr: its standard error; NaN where unknown.
        samples: how many examples (or batches) it comes from.
        constant: the lowest loss that outputs can have which are the same for every input;
            that of equal probabilities where there are too many classes to fit a constant
            (language models) or too few examples of them.
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
        """Whether the loss is not below the constant's (by 2 % if guessed), or not finite."""
        if not math.isfinite(self.loss):
            return True
        # Losses of one network vary little over examples as long as it says the same of all:
        # a loss below the constant is one that was learned, whatever its standard error.
        allowed = NEAR_CHANCE if self.is_guessed else _ROUNDING
        return self.loss >= self.constant - allowed * abs(self.constant)

    @property
    def constant_text(self) -> str:
        """The constant and its loss, as "that of ..." in a sentence."""
        kind = "equal probabilities" if self.is_guessed else "the best constant prediction"
        return f"{kind}, {number(self.constant, 4)}"

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        return (
            f"These weights predict no better than a constant: their loss is "
            f"{with_error(self.loss, self.stderr)}, that of {self.constant_text}"
        )


def chance_level(objective: Objective) -> ChanceLevel | None:
    """The loss beside that of a constant prediction; None where the latter is not known."""
    constants = _constant_losses(objective)
    if constants is None:
        return None
    try:
        loss = objective.evaluate()
    except AtlasError:
        return None
    return ChanceLevel(
        loss.value,
        loss.stderr,
        loss.samples,
        constants.best,
        constants.zero,
        is_guessed=constants.is_guessed,
    )


@dataclass(frozen=True)
class _Constants:
    # Losses of outputs that are the same for all inputs: the best ones, and zeros.
    best: float
    zero: float
    is_guessed: bool = False


def _constant_losses(objective: Objective) -> _Constants | None:
    if objective.shared is None and objective.placed is None:
        try:
            constants = _fitted(objective)
        except Exception as error:
            # A loss that needs more of a model than its outputs has no constant.
            logger.debug("no constant prediction can be fitted: %r", error)
            constants = None
        if constants is not None:
            is_telling = math.isfinite(constants.best) and constants.best > _PERFECT
            return constants if is_telling else None
    classes = guessed_classes(objective.model)
    if classes is None:
        return None
    return _Constants(math.log(classes), math.log(classes), is_guessed=True)


@dataclass(frozen=True)
class _Output:
    # What a model returns for a batch, without the numbers: a tensor, or a mapping of "logits".
    batch: Batch
    like: Tensor
    container: type | None = None

    @classmethod
    def of(cls, batch: Batch, output: Any) -> "_Output":
        is_mapping = isinstance(output, Mapping)
        logits = output["logits"] if is_mapping else output
        like = logits.new_zeros(1).expand(logits.shape)
        return cls(batch, like, type(output) if is_mapping else None)

    @property
    def class_axes(self) -> tuple[int, ...]:
        """Axes that may be those of classes or channels."""
        last = self.like.ndim - 1
        if last < 2:
            return (last,)
        # Losses of torch take axis 1, models of transformers and many others the last one.
        return (last,) if self.container is not None else (1, last)

    def filled(self, constant: Tensor, axis: int) -> Any:
        """Such an output, equal to the constant along the axis."""
        shape = [1] * self.like.ndim
        shape[axis] = -1
        outputs = constant.reshape(shape).expand(self.like.shape)
        return outputs if self.container is None else self.container(logits=outputs)


class _Recorder:
    # In the place of a model: notes the outputs of each call.
    def __init__(self, model: Any) -> None:
        self.model, self.outputs = model, list[Any]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.outputs.append(self.model(*args, **kwargs))
        return self.outputs[-1]


def _recorded(objective: Objective) -> list[_Output]:
    outputs: list[_Output] = []
    for batch in objective.iter_batches():
        recorder = _Recorder(objective.model)
        objective.loss(recorder, objective.handed(batch))  # type: ignore[arg-type]
        (output,) = recorder.outputs
        outputs.append(_Output.of(batch, output))
        if sum(each.like.numel() for each in outputs) > _MAX_ELEMENTS:
            raise DataError("there are too many outputs for a constant to be fitted.")
    return outputs


def _fitted(objective: Objective) -> _Constants:
    with objective.session():
        with torch.no_grad():
            outputs = objective.with_params(None, lambda: _recorded(objective))
        fits = [
            _fitted_along(axis, objective, outputs)
            for axis in outputs[0].class_axes
            if len({each.like.shape[axis : axis + 1] for each in outputs}) == 1
        ]
        best = min(fits, key=lambda constants: constants.best)
        guesses = [constants for constants in fits if constants.is_guessed]
        close = [c for c in guesses if math.isclose(c.best, best.best, rel_tol=1e-5)]
        return close[0] if close else best


def _fitted_along(axis: int, objective: Objective, outputs: list[_Output]) -> _Constants:
    def mean(constant: Tensor) -> Tensor:
        totals = [_total(objective, output, constant, axis) for output in outputs]
        return torch.stack([each.sum for each in totals]).sum() / sum(t.weight for t in totals)

    like = outputs[0].like
    zeros = like.new_zeros(like.shape[axis] if like.ndim > 1 else 1)
    zero = float(mean(zeros))
    predictions = sum(each.like.numel() for each in outputs) / len(zeros)
    is_few = predictions < _MIN_PREDICTIONS * len(zeros)
    # Outputs of a softmax are those of classes: a common shift changes nothing.
    if is_few and math.isclose(float(mean(zeros + 1)), zero, rel_tol=1e-5):
        return _Constants(zero, zero, is_guessed=True)
    return _Constants(_minimum(mean, zeros), zero)


def _total(objective: Objective, output: _Output, constant: Tensor, axis: int) -> Total:
    filled, batch = output.filled(constant, axis), output.batch
    losses = objective.loss(lambda *_, **__: filled, objective.handed(batch))  # type: ignore[arg-type]
    return total_of(check_loss(losses, batch), objective.size_of(batch))


def _minimum(function: Callable[[Tensor], Tensor], start: Tensor) -> float:
    from scipy.optimize import minimize

    def at(values: Floats) -> tuple[float, Floats]:
        point = torch.as_tensor(values).to(start).requires_grad_()
        with torch.enable_grad():
            value = function(point)
            (slope,) = torch.autograd.grad(value, [point])
        return float(value.detach()), slope.double().cpu().numpy()

    limits = {"maxiter": _ITERATIONS}
    optimum = minimize(at, np.zeros(len(start)), jac=True, method="L-BFGS-B", options=limits)
    return float(optimum.fun)
