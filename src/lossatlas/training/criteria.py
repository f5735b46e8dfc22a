"""Losses by name: what `--loss` takes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_one_of, nearest
from lossatlas.errors import ArgumentError, LossError, UnknownNameError
from lossatlas.objective import Batch, supervised
from lossatlas.objective.user_code import wrap_errors
from lossatlas.training.files import reason
from lossatlas.training.specs import find_factory, is_factory, parse_call

Loss = Callable[[nn.Module, Batch], Tensor]
Elementwise = Callable[..., Tensor]
REDUCTIONS = ("mean", "none", "sum")
# What a data set of each kind is measured by when nobody says otherwise.
DEFAULTS = {"classification": "cross_entropy", "language": "cross_entropy", "regression": "mse"}


@dataclass(frozen=True)
class Criterion:
    """A loss of (output, target) with one number per example and a choice of reduction.

    Attributes:
        name: the name given to `build_loss`.
        per_example: (output, target) -> shape (examples,); further axes are averaged.
    """

    name: str
    per_example: Elementwise

    def __call__(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """The loss of a batch.

        Args:
            output: output of the model.
            target: the targets.
            reduction: "mean", "sum" or "none".

        Returns:
            A number, or shape (examples,) for "none".

        Raises:
            UnknownNameError: the reduction is unknown.
            LossError: the shapes of output and target do not match.
        """
        check_one_of("reduction", reduction, REDUCTIONS)
        losses = self.per_example(output, target)
        if reduction == "none":
            return losses
        return losses.mean() if reduction == "mean" else losses.sum()


def build_loss(
    spec: str | None = None, *, task: str = "classification"
) -> Callable[..., Tensor]:
    """Build a loss criterion by name.

    Args:
        spec: `cross_entropy`, `error` (share of wrong classes), `mse`, `l1`, `huber`, `bce` (of
            logits), or `package.module:name` of a function of (output, target) or of a class
            such as `torch.nn:CrossEntropyLoss(label_smoothing=0.1)`. None selects by task:
            "mse" for a regression, otherwise "cross_entropy".
        task: task of the data set.

    Returns:
        criterion(output, target); built-in ones accept `reduction="mean" | "sum" | "none"`.
        Classes are along the last axis of outputs of shape (batch, time, classes), otherwise
        along axis 1. `mse`, `l1`, `huber` and `bce` convert class indices to one-hot rows.

    Raises:
        UnknownNameError: the name or task is unknown (the message gives the nearest match).
        ArgumentError: the named object cannot be called, or not with these arguments.
        FileError: the file of the factory is missing.
    """
    check_one_of("task", task, DEFAULTS)
    if spec is None:
        spec = DEFAULTS[task]
    if spec in CRITERIA:
        return Criterion(spec, CRITERIA[spec])
    if not is_factory(spec):
        raise UnknownNameError(
            f"`loss` must be one of {', '.join(CRITERIA)} or package.module:function; "
            f"got {spec!r}{nearest(spec, CRITERIA)}."
        )
    call = parse_call("loss", spec)
    factory = find_factory("loss", call.name)
    if inspect.isclass(factory) or call.args or call.options:
        with wrap_errors(f"`loss`: '{spec}'", "check its arguments.", ArgumentError):
            made: Callable[..., Tensor] = factory(*call.args, **call.options)
        return made
    return factory


def as_loss(loss: str | Criterion | Loss | None, task: str = "classification") -> Loss:
    """Make `loss(model, batch)` of what a training takes."""
    if loss is None or isinstance(loss, str):
        return supervised(build_loss(loss, task=task))
    if isinstance(loss, Criterion):
        return supervised(loss)
    if not callable(loss):
        kind = type(loss).__name__
        raise ArgumentError(f"`loss` must be a name or loss(model, batch); got {kind}.")
    return loss


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    rows, labels = _by_class(output, target)
    try:
        return _averaged(F.cross_entropy(rows, labels, reduction="none"), target)
    except IndexError as error:
        raise LossError(
            f"the targets do not match {rows.shape[1]} outputs ({reason(error)}); use one "
            "output of the model per class."
        ) from None


def _error(output: Tensor, target: Tensor) -> Tensor:
    rows, labels = _by_class(output, target)
    return _averaged((rows.argmax(1) != labels).to(output.dtype), target)


def _by_class(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if target.is_floating_point() or output.ndim != target.ndim + 1:
        raise LossError(
            "a loss over classes needs outputs with one axis more than its integer targets; "
            f"got {tuple(output.shape)} and {tuple(target.shape)} of {target.dtype}: check "
            "model, data and `loss`."
        )
    if output.shape[:-1] == target.shape:
        return output.flatten(0, -2), target.flatten()
    return output, target


def _averaged(losses: Tensor, target: Tensor) -> Tensor:
    if target.ndim == 1:
        return losses
    return losses.reshape(len(target), -1).mean(1)


def _elementwise(function: Elementwise) -> Elementwise:
    def per_example(output: Tensor, target: Tensor) -> Tensor:
        goal = _dense(output, target)
        losses = function(output, goal, reduction="none")
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    return per_example


def _dense(output: Tensor, target: Tensor) -> Tensor:
    is_integer = not target.is_floating_point()
    if is_integer and output.ndim == target.ndim + 1 and output.shape[:-1] == target.shape:
        # F.one_hot looks at the values, which vmap does not allow.
        classes = torch.arange(output.shape[-1], device=output.device)
        return torch.eq(target.unsqueeze(-1), classes).to(output.dtype)
    if output.shape != target.shape:
        raise LossError(
            f"the output has shape {tuple(output.shape)} but the target {tuple(target.shape)}; "
            "they must match: check model, data and `loss`."
        )
    return target.to(output.dtype)


CRITERIA: dict[str, Elementwise] = {
    "cross_entropy": _cross_entropy,
    "error": _error,
    "mse": _elementwise(F.mse_loss),
    "l1": _elementwise(F.l1_loss),
    "huber": _elementwise(F.huber_loss),
    "bce": _elementwise(F.binary_cross_entropy_with_logits),
}
