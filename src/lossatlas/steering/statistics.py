"""The statistics of BatchNorm layers, estimated anew at other weights."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes, preserved_rng
from lossatlas.objective import Batch
from lossatlas.objective.batches import to_device
from lossatlas.objective.modes import norm_layers, recalibrate

Forward = Callable[[nn.Module, Batch], Any]


def plain_forward(model: nn.Module, batch: Batch) -> Any:
    """Call a model on a tensor, on the first entry of a tuple, or with those of a mapping."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, list | tuple) else batch)


def reestimate(model: nn.Module, batches: Iterable[Batch], forward: Forward | None) -> None:
    """Estimate the running statistics of norm layers anew, in place."""
    call, device = forward or plain_forward, next(model.parameters()).device
    seen = 0

    def one_pass() -> None:
        nonlocal seen
        for batch in batches:
            call(model, to_device(batch, device))
            seen += 1

    with torch.no_grad(), preserved_rng(), preserved_modes(model):
        model.eval()
        recalibrate(model, one_pass)
        if not seen:
            raise ArgumentError(
                "`batches` must give at least one batch; got none: an iterator that was used "
                "up gives nothing, a list or a DataLoader can be walked again."
            )
        _share_statistics(model)


def _share_statistics(model: nn.Module) -> None:
    spread = torch.distributed
    if not (spread.is_available() and spread.is_initialized() and spread.get_world_size() > 1):
        return
    for layer in norm_layers(model):
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            continue
        # The spread of the processes' means is part of the common variance.
        both = torch.stack([mean, variance + mean.square()])
        spread.all_reduce(both)
        both /= spread.get_world_size()
        mean.copy_(both[0])
        variance.copy_(both[1] - both[0].square())
