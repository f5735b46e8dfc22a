"""Parts of an objective: layers of the model, groups of the examples."""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lossatlas.errors import ArgumentError, DataError, LossError
from lossatlas.objective import Batch, Objective, Supervised
from lossatlas.objective.batches import batch_size, map_tensors, rows_of
from lossatlas.objective.user_code import wrap_errors

Labels = Callable[[Batch], Tensor]


def layers(names: Iterable[str]) -> dict[str, list[str]]:
    """Parameters by the module that holds them."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition(".")[0] or "(root)", []).append(name)
    return found


def target_classes(batch: Batch) -> Tensor:
    """The class of each example of a batch (input, target)."""
    targets = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ArgumentError(
            "classes are read from batches (input, class index), and these hold none; "
            'spectrum(by="class") takes `labels`, a function batch -> one whole number an '
            "example."
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
    if isinstance(objective.loss, Supervised) or labels is not None:
        read = labels or target_classes
    else:
        raise ArgumentError(
            "classes are read from the targets of `supervised` losses only; for this one "
            'spectrum(by="class") takes `labels`, a function batch -> one whole number an '
            "example."
        )
    present = sorted(set().union(*objective.gathered(lambda b: _labels_of(read, b).tolist())))
    if not present:
        raise DataError("there are no examples to group; check the batches.")
    _check_groups(objective, read)
    in_memory = isinstance(objective.batches, list | tuple)
    selected = {label: _Selected(objective.batches, read, label) for label in present}
    return {
        str(label): objective.part(list(each) if in_memory else each)
        for label, each in selected.items()
    }


def _check_groups(objective: Objective, read: Labels) -> None:
    # A mean over all examples lies between those over groups, with weights of classes or not.
    batch = objective.first_batch()
    labels = _labels_of(read, batch)
    parts = [_taken(batch, torch.nonzero(labels == k).flatten()) for k in torch.unique(labels)]
    if len(parts) < 2:
        return
    whole = objective.part([batch]).value()
    groups = [objective.part([part]).value() for part in parts]
    slack = 1e-3 * max(map(abs, [whole, *groups]))
    if math.isfinite(whole) and not min(groups) - slack <= whole <= max(groups) + slack:
        raise LossError(
            f"the loss of a batch is {whole:.4g}, and over its groups alone from "
            f"{min(groups):.4g} to {max(groups):.4g}: examples of a batch depend on each other "
            "(a contrastive loss), so a group has no loss of its own."
        )


class _Selected:
    """The examples of one group, walkable again and again."""

    def __init__(self, batches: Iterable[Batch], labels: Labels, label: int) -> None:
        self._batches, self._labels, self._label = batches, labels, label

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            keep = torch.nonzero(_labels_of(self._labels, batch) == self._label).flatten()
            if len(keep):
                yield _taken(batch, keep)


def _labels_of(labels: Labels, batch: Batch) -> Tensor:
    with wrap_errors("`labels`", "it is called as labels(batch).", ArgumentError):
        found = labels(batch)
    if not isinstance(found, Tensor) or found.shape != (batch_size(batch),):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError(
            f"`labels` must give one whole number an example, shape ({batch_size(batch)},); "
            f"got {shape}."
        )
    return _whole(found)


def _whole(found: Tensor) -> Tensor:
    whole = found.long()
    odd = torch.nonzero(whole.to(found.dtype) != found).flatten()
    if len(odd):
        raise ArgumentError(
            f"`labels` must give whole numbers; got {found[odd[0]].item():g} for example "
            f"{int(odd[0])} of a batch: number the groups, as torch.bucketize does."
        )
    return whole


def _taken(batch: Batch, keep: Tensor) -> Batch:
    total = batch_size(batch)

    def take(value: Tensor) -> Tensor:
        whole = value.ndim and len(value) == total
        return rows_of(value, keep.tolist()) if whole else value

    return map_tensors(take, batch)
