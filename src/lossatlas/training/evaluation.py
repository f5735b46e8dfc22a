"""Evaluate many networks on the same data."""

from typing import Any

import numpy as np
import torch
from torch import nn

from lossatlas.checks import check_at_least
from lossatlas.errors import StructureError
from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import Params
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.training.criteria import Criterion, Loss, as_loss
from lossatlas.training.ensemble import TOGETHER
from lossatlas.training.members import member_losses
from lossatlas.training.plan import Data, Plan, make_plan, task_of


def evaluate_ensemble(
    model: nn.Module,
    states: Params,
    data: Data,
    loss: str | Criterion | Loss | None = None,
    *,
    batch_size: int = 256,
    together: int = TOGETHER,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean loss of each member in eval mode, weighted by batch size.

    Args:
        model: the architecture; not changed.
        states: parameters and buffers, each of shape (members, ...), as in
            `EnsembleRun.states` and `.checkpoints`.
        data: a `Dataset`, or batches.
        loss: a name for `build_loss` ("error" gives the share of wrong classes), a criterion
            built by it, or `loss(model, batch)`. None selects by task.
        batch_size: examples per batch, if `data` is a data set.
        together: number of members computed at once; limits the memory.

    Returns:
        float64, shape (members,); NaN or infinite if a loss is.

    Raises:
        StructureError: a parameter of the model is missing from `states`.
        ArgumentError: a size is below 1.
        UnknownNameError: the loss is unknown (the message gives the nearest match).
        DataError: there are no batches.
        LossError: model, loss and batches do not match.
    """
    check_at_least("together", together, 1)
    named = dict(model.named_parameters())
    missing = [name for name, p in named.items() if p.requires_grad and name not in states]
    if missing:
        raise StructureError(f"`states` has no entry '{missing[0]}'; pass all parameters.")
    device = next(iter(named.values())).device
    plan = make_plan(data, batch_size, device)
    measure = as_loss(loss, task_of(data))
    groups = zip(*(torch.split(v, together) for v in states.values()), strict=True)
    with preserved_modes(model), torch.no_grad():
        model.eval()
        losses = [
            _evaluate(
                model,
                {n: v.to(device) for n, v in zip(states, group, strict=True)},
                plan,
                measure,
            )
            for group in groups
        ]
    return np.concatenate(losses)


def _evaluate(model: nn.Module, states: Params, plan: Plan, loss: Loss) -> Any:
    buffers = dict(model.named_buffers())
    weights = {name: value for name, value in states.items() if name not in buffers}
    member_buffers = {name: value for name, value in states.items() if name in buffers}
    losses_of = member_losses(model, loss, shared=True)
    total, weight = torch.zeros((), dtype=torch.float64), 0
    for batch in plan.in_order():
        size = size_of(batch)
        total = total + size * losses_of(weights, member_buffers, batch).double().cpu()
        weight += size
    return (total / weight).numpy()
