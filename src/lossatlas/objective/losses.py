"""Losses and metrics: functions of (model, batch) that give a mean or one number an example."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lossatlas.errors import ArgumentError, LossError
from lossatlas.objective.batches import Batch
from lossatlas.objective.foreign import fed_with

Criterion = Callable[..., Tensor]

_LOSS = ("`supervised`", "loss(model, batch)")
_METRIC = ("`accuracy`", "metric(model, batch)")


class Supervised:
    """The loss of `criterion(model(input), target)` on batches `(input, target)`.

    Made by `supervised`. Where the criterion can give one number an example
    (`reduction="none"`), standard errors come from the examples, otherwise from the batches.

    Args:
        criterion: a function of (output, target), or a module such as `nn.CrossEntropyLoss()`.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self._unreduced = _unreduced(criterion)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch as the criterion reduces it.

        Args:
            model: called with the input.
            batch: a pair (input, target).

        Returns:
            What the criterion returns.
        """
        inputs, targets = _pair(batch, *_LOSS)
        outputs = model(inputs)
        with fed_with(outputs, "the criterion", _LOSS[1]):
            return self.criterion(outputs, targets)

    def per_example(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """The loss of each example.

        Args:
            model: called with the input.
            batch: a pair (input, target).

        Returns:
            Shape (batch,), further axes averaged; None where the criterion gives only means.
        """
        if self._unreduced is None:
            return None
        inputs, targets = _pair(batch, *_LOSS)
        return self.unreduced(model(inputs), targets)

    def unreduced(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The loss of each example, from outputs that are there already.

        Args:
            outputs: what the model gave.
            targets: what it should have given.

        Returns:
            Shape (batch,), further axes averaged; None where the criterion gives only means.
        """
        losses = self.elements(outputs, targets)
        return losses if losses is None or losses.ndim < 2 else losses.flatten(1).mean(1)

    def elements(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """What the criterion gives without a reduction.

        Args:
            outputs: what the model gave.
            targets: what it should have given.

        Returns:
            One number an element, in the shape that the criterion gives; None where it gives
            only means.
        """
        return None if self._unreduced is None else self._unreduced(outputs, targets)


def supervised(criterion: Criterion) -> Supervised:
    """Make a loss(model, batch) from a criterion and batches of (input, target).

    Args:
        criterion: a function of (output, target) such as `F.cross_entropy`, or a module.

    Returns:
        A callable for `Objective`.

    Raises:
        ArgumentError: the criterion cannot be called, or is a class.
    """
    if not callable(criterion):
        raise ArgumentError(
            "`criterion` must be a function of (output, target), such as F.cross_entropy; "
            f"got {type(criterion).__name__}."
        )
    if inspect.isclass(criterion):
        name = criterion.__name__
        raise ArgumentError(f"`criterion` is the class {name}; make one of it, as in {name}().")
    return Supervised(criterion)


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """Whether each example of a batch (input, target) is classified right; a metric for maps.

    Args:
        model: gives logits with the classes along axis 1.
        batch: a pair (input, target); targets are class indices.

    Returns:
        Shape (batch,), 1 for right and 0 for wrong; further axes averaged.

    Raises:
        ArgumentError: another batch than a pair.
        LossError: outputs or targets of another kind.
    """
    inputs, targets = _pair(batch, *_METRIC)
    outputs = model(inputs)
    with fed_with(outputs, *_METRIC):
        guessed = outputs.argmax(1)
        if outputs.shape[1] < 2 or guessed.shape != targets.shape or _is_real(targets):
            raise LossError(
                "`accuracy` takes logits with two classes or more along axis 1, and the index "
                f"of a class for each; got outputs {tuple(outputs.shape)} and targets "
                f"{tuple(targets.shape)} of {targets.dtype}: write {_METRIC[1]} yourself."
            )
        right: Tensor = (guessed == targets).to(torch.float32)
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def _is_real(targets: Tensor) -> bool:
    return targets.is_floating_point() or targets.is_complex()


def loss_remedy(loss: object) -> str:
    """What to check where a loss fails.

    Args:
        loss: it.

    Returns:
        The end of a sentence.
    """
    if isinstance(loss, Supervised):
        return "check that they fit: model(input), then criterion(output, target)."
    return (
        "it is called as loss(model, batch); a criterion of (output, target) goes in as "
        "supervised(criterion)."
    )


def _pair(batch: Batch, who: str, instead: str) -> tuple[Any, Any]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        kind = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else batch
        raise ArgumentError(
            f"{who} takes batches that are a pair (input, target); got {kind}: for other "
            f"batches write {instead} yourself."
        )
    return batch[0], batch[1]


def _unreduced(criterion: Criterion) -> Criterion | None:
    if isinstance(criterion, nn.Module):
        if not isinstance(getattr(criterion, "reduction", None), str):
            return None
        twin = copy.copy(criterion)
        twin.reduction = "none"  # type: ignore[assignment]
        return cast(Criterion, twin)
    try:
        takes_reduction = "reduction" in inspect.signature(criterion).parameters
    except (TypeError, ValueError):
        return None
    return (lambda a, b: criterion(a, b, reduction="none")) if takes_reduction else None
