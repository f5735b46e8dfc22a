"""Pieces of batches, for losses whose mean over the pieces is that of the whole batch."""

from collections.abc import Sequence

import torch

from lossatlas.errors import LossError
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import batch_size, split
from lossatlas.objective.user_code import wrap_errors

_OWN = (
    "its batches have a structure of their own (a graph, a packed sequence, images of a size)"
)
_ANOTHER = (
    "examples of a batch depend on each other (a contrastive loss), or its mean has weights or "
    "a mask; a loss that gives one number an example needs no other one"
)


def pieces_of(objective: Objective, size: int) -> list[Batch]:
    """All batches in pieces of at most `size` examples."""
    pieces: list[Batch] = []
    checked = False
    for batch in objective.map_batches(lambda batch: batch):
        parts = _split(batch, size)
        if not checked and len(parts) > 1:
            check_pieces(objective, batch, parts)
            checked = True
        pieces += parts
    return pieces


def _split(batch: Batch, size: int) -> list[Batch]:
    with wrap_errors("cutting a batch into pieces", f"{_OWN}.", LossError):
        parts = split(batch, size)
        whole = sum(map(batch_size, parts)) == batch_size(batch)
    if not whole:
        raise LossError(f"a batch of the objective does not come in pieces: {_OWN}.")
    return parts


def check_pieces(objective: Objective, batch: Batch, parts: Sequence[Batch]) -> None:
    """Require the loss of a batch to be the mean of the losses of its pieces."""
    held = _held(objective)
    whole = held.part([batch]).value()
    try:
        pieces = held.part(parts).value()
    except LossError as error:
        raise LossError(
            f"the loss of a batch does not come in pieces: {_OWN}; on {len(parts)} pieces "
            f"{str(error).partition('; ')[0].rstrip('.')}."
        ) from error
    if abs(whole - pieces) > _tolerance(objective) * max(abs(whole), abs(pieces)):
        raise LossError(
            f"the loss of a batch is not that of its pieces ({whole:.4g} whole, {pieces:.4g} "
            f"in {len(parts)} pieces): {_ANOTHER}."
        )


def _held(objective: Objective) -> Objective:
    if objective.mode != "train":
        return objective
    return Objective(
        objective.model,
        objective.loss,
        objective.batches,
        params=objective.names,
        check=False,
        size=objective.size,
    )


def _tolerance(objective: Objective) -> float:
    # Kernels choose their order of sums by the shape; on accelerators with less precision.
    kinds = {value.dtype for value in objective.params.values()}
    rounding = max(torch.finfo(kind).eps for kind in kinds)
    return 8 * rounding + (1e-4 if objective.device.type == "cpu" else 1e-3)
