"""Losses and metrics: functions of (model, batch) that give a mean or one number an example."""

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import shown
from lossatlas.errors import ArgumentError, LossError
from lossatlas.objective.batches import Batch
from lossatlas.objective.user_code import fed_with, wrap_errors
from lossatlas.objective.weighted import Weighted

Criterion = Callable[..., Tensor]

_LOSS = ("`supervised`", "loss(model, batch)")
_METRIC = ("`accuracy`", "metric(model, batch)")
# Criteria of class indices, whose mean divides by the weights of the classes that count.
_INDEXED = (F.cross_entropy, F.nll_loss)
_INDEXED_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)
# What makes a mean of examples another than the plain one.
_WEIGHTS = ("weight", "pos_weight", "ignore_index")


class Supervised:
    """The loss of `criterion(model(input), target)` on batches `(input, target)`.

    Made by `supervised`. Where the criterion can give one number an element
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
            given = self.criterion(outputs, targets)
        several = isinstance(given, Tensor) and given.ndim > 1 and self.reduction == "none"
        return given.flatten(1).mean(1) if several else given

    @property
    def reduction(self) -> str | None:
        """How the criterion reduces, such as "mean"; None where it does not say."""
        return cast(str | None, _setting(self.criterion, "reduction", None))

    @property
    def weighs(self) -> str | None:
        """A setting by which the criterion weighs examples or elements; None where none is."""
        given = [_setting(self.criterion, name, None) for name in _WEIGHTS[:2]]
        named = [n for n, v in zip(_WEIGHTS[:2], given, strict=True) if isinstance(v, Tensor)]
        ignored = _setting(self.criterion, "ignore_index", -100)
        named += ["ignore_index"] if isinstance(ignored, int) and ignored != -100 else []
        return named[0] if named else None

    def per_example(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """The plain loss of each example; for criteria that let all elements count alike.

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

    def pairs(self, model: nn.Module, batch: Batch) -> Weighted | None:
        """Sum and weight of each example, as the criterion weighs them.

        Args:
            model: called with the input.
            batch: a pair (input, target).

        Returns:
            See `weighted`.
        """
        if self._unreduced is None:
            return None
        inputs, targets = _pair(batch, *_LOSS)
        return self.weighted(model(inputs), targets)

    def weighted(self, outputs: Tensor, targets: Tensor) -> Weighted | None:
        """Sum and weight of each example, from outputs that are there already.

        The sum is over the elements of an example (the tokens of a sequence, say). Its weight
        is their number, or with class indices the sum of their class weights, 0 where the
        index is ignored; it is 1 with `reduction="sum"` and `"batchmean"`.

        Args:
            outputs: what the model gave.
            targets: what it should have given.

        Returns:
            Shapes (batch,); None where the criterion gives only means.
        """
        losses = self.elements(outputs, targets)
        if losses is None or not losses.ndim:
            return None
        if isinstance(targets, Tensor) and targets.ndim and len(losses) != len(targets):
            # Tokens in one row, say: which of them are of one example is not known.
            return None
        rows = losses.flatten(1) if losses.ndim > 1 else losses[:, None]
        if self.reduction in {"sum", "batchmean"}:
            return Weighted(rows.sum(1), rows.new_ones(len(rows), dtype=torch.float64))
        weights = self._weights(targets, losses)
        if weights is None:
            count = float(rows.shape[1])
            return Weighted(
                rows.sum(1), rows.new_full((len(rows),), count, dtype=torch.float64)
            )
        return Weighted(rows.sum(1), weights.double().flatten(1).sum(1))

    def _weights(self, targets: Tensor, losses: Tensor) -> Tensor | None:
        # Of elements, shape (batch, any); None where all count alike.
        criterion = self.criterion
        bare = criterion.func if isinstance(criterion, partial) else criterion
        if bare not in _INDEXED and not isinstance(criterion, _INDEXED_MODULES):
            return None
        if targets.is_floating_point() or targets.shape != losses.shape:
            # Shares of classes: the mean is over all places.
            return None
        kept: Tensor = targets != _setting(criterion, "ignore_index", -100)
        classes = _setting(criterion, "weight", None)
        if classes is None:
            return kept.reshape(len(kept), -1)
        chosen: Tensor = classes.detach()[targets.where(kept, 0)] * kept
        return chosen.reshape(len(kept), -1)

    def unreduced(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The plain loss of each example, from outputs that are there already.

        Args:
            outputs: what the model gave.
            targets: what it should have given.

        Returns:
            Shape (batch,), further axes averaged (summed with `reduction="sum"` and
            `"batchmean"`); None where the criterion gives only means.
        """
        losses = self.elements(outputs, targets)
        if losses is None or losses.ndim < 2:
            return losses
        rows = losses.flatten(1)
        return rows.sum(1) if self.reduction in {"sum", "batchmean"} else rows.mean(1)

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

    The objective is then the criterion's mean over all data, however they are dealt to
    batches: `ignore_index`, class `weight`, `label_smoothing` and further axes (tokens) count
    as torch counts them within one batch (see `Weighted`). `reduction="none"` means the same
    as `"mean"`; with `"sum"` elements are summed within an example and examples averaged.

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


def accuracy(model: nn.Module, batch: Batch) -> Tensor | Weighted:
    """Whether each example of a batch is classified right; a metric for maps.

    Targets below 0 (-100 in torch) are no classes and do not count.

    Args:
        model: gives logits with the classes along axis 1; of transformers, a classifier.
        batch: a pair (input, target), or a mapping with "labels", of which the other entries
            are the model's keywords; targets and labels are class indices.

    Returns:
        Shape (batch,), 1 for right and 0 for wrong; further axes averaged. Pairs of sums and
        counts where a target is below 0.

    Raises:
        ArgumentError: a batch of another form.
        LossError: outputs or targets of another kind.

    Examples:
        >>> import torch, lossatlas as la
        >>> model = torch.nn.Identity()
        >>> la.accuracy(model, (torch.eye(3), torch.tensor([0, 1, 0])))
        tensor([1., 1., 0.])
    """
    outputs, targets = _classified(model, batch)
    with fed_with(outputs, *_METRIC):
        guessed = outputs.argmax(1)
        if outputs.shape[1] < 2 or guessed.shape != targets.shape or _is_real(targets):
            raise LossError(
                "`accuracy` takes logits with two classes or more along axis 1, and the index "
                f"of a class for each; got outputs {tuple(outputs.shape)} and targets "
                f"{tuple(targets.shape)} of {targets.dtype}: write {_METRIC[1]} yourself."
            )
        right: Tensor = (guessed == targets).to(torch.float32)
    rows = right.reshape(len(right), -1)
    counted = (targets >= 0).reshape(len(right), -1)
    if not bool(counted.all()):
        return Weighted((rows * counted).sum(1), counted.double().sum(1))
    return rows.mean(1) if right.ndim > 1 else right


def _classified(model: nn.Module, batch: Batch) -> tuple[Any, Any]:
    # Outputs of the model, and the targets.
    fits = "check that it takes the input of `batch`."
    if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
        inputs, targets = _pair(batch, *_METRIC)
        with wrap_errors("`model`", fits):
            return model(inputs), targets
    keywords = {name: value for name, value in batch.items() if name != "labels"}
    with wrap_errors("`model`", fits):
        output = model(**keywords)
    logits = output.get("logits") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        # Language models predict the next token, which labels do not show.
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise LossError(
            "`accuracy` of a mapping takes classifiers with logits (examples, classes); got "
            f"{shape}: write {_METRIC[1]} yourself."
        )
    return logits, batch["labels"].reshape(len(logits), -1).squeeze(1)


def _is_real(targets: Tensor) -> bool:
    return targets.is_floating_point() or targets.is_complex()


def loss_remedy(loss: object) -> str:
    """What to check where a loss fails."""
    if isinstance(loss, Supervised):
        return "check that they fit: model(input), then criterion(output, target)."
    return (
        "it is called as loss(model, batch); a criterion of (output, target) goes in as "
        "supervised(criterion)."
    )


def _setting(criterion: object, name: str, default: object) -> Any:
    if isinstance(criterion, partial):
        return criterion.keywords.get(name, default)
    return getattr(criterion, name, default)


def _pair(batch: Batch, who: str, instead: str) -> tuple[Any, Any]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        is_row = isinstance(batch, list | tuple | Mapping)
        kind = f"{type(batch).__name__} of {len(batch)}" if is_row else shown(batch)
        raise ArgumentError(
            f"{who} takes batches that are a pair (input, target); got {kind}: for other "
            f"batches write {instead} yourself."
        )
    if batch[0] is None or batch[1] is None:
        raise ArgumentError(f"{who} takes batches (input, target); one of the two is None.")
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
