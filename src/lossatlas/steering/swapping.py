"""Two sets of weights change places, and BatchNorm learns the statistics of the new ones."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lossatlas.guard import preserved_modes, preserved_rng
from lossatlas.objective import Batch
from lossatlas.objective.modes import norm_layers, recalibrate


def exchange(params: list[Tensor], average: list[Tensor]) -> list[Tensor | None]:
    """Put averages into the weights, and the weights where the averages were."""
    before: list[Tensor | None] = []
    for p, mean in zip(params, average, strict=True):
        raw = p.detach().clone()
        p.copy_(mean)
        if raw.dtype == mean.dtype:
            mean.copy_(raw)
            before.append(None)
        else:
            before.append(raw)
    return before


def give_back(params: list[Tensor], average: list[Tensor], before: list[Tensor | None]) -> None:
    """Undo `exchange`, bit for bit."""
    for p, mean, kept in zip(params, average, before, strict=True):
        if kept is not None:
            p.copy_(kept)
            continue
        raw = mean.clone()
        mean.copy_(p.detach())
        p.copy_(raw)


def reestimate(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Estimate the running statistics of norm layers anew, in place."""
    device = next(model.parameters()).device

    def one_pass() -> None:
        for batch in batches:
            inputs = batch[0] if isinstance(batch, list | tuple) else batch
            model(inputs.to(device))

    with torch.no_grad(), preserved_rng(), preserved_modes(model):
        model.eval()
        recalibrate(model, one_pass)
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
