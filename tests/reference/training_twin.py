"""One network trained alone by the obvious loop: the truth for `train` and the ensemble."""

import copy
import math

import torch
from torch.nn import functional as F

from lossatlas.training.seeding import epoch_order


def train_alone(
    model,
    data,
    *,
    steps,
    order=0,
    optimizer="sgd",
    lr=0.1,
    weight_decay=0.0,
    momentum=0.9,
    batch_size=8,
    cosine=False,
    loss=F.cross_entropy,
):
    """Returns (list of losses, trained copy)."""
    model = copy.deepcopy(model).train()
    if optimizer == "sgd":
        made = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay
        )
    else:
        made = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    losses, step, epoch = [], 0, 0
    while step < steps:
        order_now = epoch_order(order, epoch, len(data))
        for first in range(0, len(data), batch_size):
            if step == steps:
                break
            rows = order_now[first : first + batch_size]
            if cosine:
                made.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            value = loss(model(data.inputs[rows]), data.targets[rows])
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                return losses, model
            made.zero_grad()
            value.backward()
            made.step()
            step += 1
        epoch += 1
    return losses, model
