"""Slow, obvious twins: every point by its own state_dict."""

import copy
from itertools import product

import numpy as np
import torch


def map_by_state_dict(model, loss, batches, origin, directions, axes):
    """The mean loss at every point of a grid, one deep copy of the model a point."""
    values = np.empty([len(axis) for axis in axes])
    for index in product(*(range(len(axis)) for axis in axes)):
        twin = copy.deepcopy(model).eval()
        own = dict(twin.named_parameters())
        with torch.no_grad():
            for name, start in origin.items():
                steps = zip(axes, index, directions, strict=True)
                own[name].copy_(start + sum(axis[i] * d[name] for axis, i, d in steps))
            total = count = 0.0
            for batch in batches:
                size = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
                total += float(loss(twin, batch).double().mean()) * size
                count += size
        values[index] = total / count
    return values
