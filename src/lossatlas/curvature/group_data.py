"""Groups of examples and of parameters: which there are, and an objective for each."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lossatlas.errors import ArgumentError, DataError, LossError
from lossatlas.objective import Batch, Objective, Supervised
from lossatlas.objective.batches import batch_size, known_length, map_tensors, rows_of
from lossatlas.objective.user_code import wrap_errors

Labels = Callable[[Batch], Tensor]
_REMEDY = 'spectrum(by="class") takes `labels`, a function batch -> one integer per example.'


def parameters_by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """Parameters by the module that holds them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[0] or "(root)", []).append(name)
    return groups


def target_classes(batch: Batch) -> Tensor:
    """The class of each example of a batch (input, target), or of its "labels"."""
    if isinstance(batch, Mapping):
        targets = batch.get("labels")
    else:
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2
        targets = batch[1] if is_pair else None
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ArgumentError(
            "classes are read from batches (input, class index), or from one class index per "
            f'example under "labels", and these hold none; {_REMEDY}'
        )
    return targets


def split_examples(objective: Objective, labels: Labels | None) -> dict[str, Objective]:
    """One objective for each group of examples: the mean loss over the group alone."""
    if labels is not None and not callable(labels):
        raise ArgumentError(
            "`labels` must be a function batch -> one whole number an example; got "
            f"{type(labels).__name__}."
        )
    if objective.mode == "train":
        raise ArgumentError(
            "groups of examples need mode='eval' or 'recalibrated'; with mode='train' every "
            "group would have batch statistics of its own, and so be another network."
        )
    names_labels = isinstance(objective.first_batch(), Mapping)
    if labels is None and not isinstance(objective.loss, Supervised) and not names_labels:
        # A pair may hold anything; what is under "labels" is said to be labels.
        raise ArgumentError(
            'classes are read from the targets of `supervised` losses and from "labels" of '
            f"mappings; {_REMEDY}"
        )
    read = labels or target_classes
    present: set[int] = set()
    for values in objective.map_batches(lambda batch: _labels_of(read, batch).tolist()):
        present.update(values)
    if not present:
        raise DataError("there are no examples to group; check the batches.")
    _check_additive(objective, read)
    in_memory = isinstance(objective.batches, list | tuple)
    groups = {}
    for label in sorted(present):
        batches = _GroupBatches(objective.batches, read, label)
        groups[str(label)] = objective.part(list(batches) if in_memory else batches)
    return groups


def _check_additive(objective: Objective, labels: Labels) -> None:
    # A mean over all examples lies between those over groups, with weights of classes or not.
    batch = objective.first_batch()
    values = _labels_of(labels, batch)
    parts = [_rows(batch, torch.nonzero(values == k).flatten()) for k in torch.unique(values)]
    if len(parts) < 2:
        return
    whole = objective.part([batch]).value()
    groups = [objective.part([part]).value() for part in parts]
    tolerance = 1e-3 * max(map(abs, [whole, *groups]))
    low, high = min(groups) - tolerance, max(groups) + tolerance
    if math.isfinite(whole) and not low <= whole <= high:
        raise LossError(
            f"the loss of a batch is {whole:.4g}, and over its groups alone from "
            f"{min(groups):.4g} to {max(groups):.4g}: examples of a batch depend on each other "
            "(a contrastive loss), so a group has no loss of its own."
        )


class _GroupBatches:
    """The examples of one group, walkable again and again."""

    def __init__(self, batches: Iterable[Batch], labels: Labels, label: int) -> None:
        self._batches, self._labels, self._label = batches, labels, label

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            rows = torch.nonzero(_labels_of(self._labels, batch) == self._label).flatten()
            if len(rows):
                yield _rows(batch, rows)

    def __length_hint__(self) -> int:
        return known_length(self._batches) or 0


def _labels_of(labels: Labels, batch: Batch) -> Tensor:
    with wrap_errors("`labels`", "it is called as labels(batch).", ArgumentError):
        values = labels(batch)
    if not isinstance(values, Tensor) or values.shape != (batch_size(batch),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentError(
            f"`labels` must give one whole number an example, shape ({batch_size(batch)},); "
            f"got {shape}."
        )
    return _as_integers(values)


def _as_integers(labels: Tensor) -> Tensor:
    integers = labels.long()
    fractions = torch.nonzero(integers.to(labels.dtype) != labels).flatten()
    if len(fractions):
        first = int(fractions[0])
        raise ArgumentError(
            f"`labels` must give whole numbers; got {labels[first].item():g} for example "
            f"{first} of a batch: number the groups, as torch.bucketize does."
        )
    return integers


def _rows(batch: Batch, rows: Tensor) -> Batch:
    examples = batch_size(batch)

    def take(value: Tensor) -> Tensor:
        has_examples = value.ndim and len(value) == examples
        return rows_of(value, rows.tolist()) if has_examples else value

    return map_tensors(take, batch)
