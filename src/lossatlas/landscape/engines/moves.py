"""Check that the loss depends on the weights: a model that caches them gives a flat map."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lossatlas.errors import ModelError
from lossatlas.landscape.engines.task import Array, Task
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.objective.batches import tensors


def check_moves(task: Task, look: Array) -> None:
    """Require that the model reads the given weights."""
    if not np.array_equal(look[0], look[1], equal_nan=True) or _reads_weights(task):
        return
    first = next(iter(task.plane.origin))
    raise ModelError(
        "the loss stays the same to the bit when the weights move, and the model's outputs do "
        f"not depend on '{first}' or the others: it seems to use values derived from them "
        "earlier (merged or cached weights); let it read them at every call, or select other "
        "parameters with params=."
    )


def _reads_weights(task: Task) -> bool:
    objective, batch = task.objective, task.objective.first_batch()
    leaves = {n: value.detach().requires_grad_() for n, value in task.plane.origin.items()}
    with objective.session():
        with torch.no_grad():
            # Whatever keeps something keeps it now.
            objective.swapped(task.plane.origin, lambda: objective.batch_loss(batch))
        with torch.enable_grad():
            return objective.swapped(leaves, partial(_depends, task, batch, leaves))


def _depends(task: Task, batch: Batch, leaves: Params) -> bool:
    outputs: list[Tensor] = []
    handle = task.objective.model.register_forward_hook(
        lambda _model, _inputs, output: outputs.extend(tensors(output))
    )
    try:
        loss = task.objective.total(batch).sum
    finally:
        handle.remove()
    if not outputs and not loss.requires_grad:
        # The model was not called as a whole, and the loss has no gradient: nothing is known.
        return True
    totals = [value.sum() for value in (loss, *outputs) if value.requires_grad]
    if not totals:
        return False
    slopes = torch.autograd.grad(totals, list(leaves.values()), allow_unused=True)
    return any(gradient is not None for gradient in slopes)
