"""The statistics of BatchNorm layers, estimated anew at other weights."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes, preserved_rng
from lossatlas.linalg.params import qualified_name
from lossatlas.objective import Batch
from lossatlas.objective.batches import check_walkable, known_length, to_device
from lossatlas.objective.modes import norm_layers, recalibrate
from lossatlas.objective.user_code import wrap_errors
from lossatlas.tracebacks import user_level

Forward = Callable[[nn.Module, Batch], Any]
# Of batches without a length, which may never end.
_MOST = 1000
_LATER = (
    "{model} keeps running statistics ({layers}), and those of the last weights are not those "
    "of averaged weights: give a few batches of training data as `batches=`, here or later to "
    "`best` and `swapped`, which raise without them."
)
_NOT_OURS = (
    "'{name}' keeps running statistics of its own, which are not estimated anew: `swapped()` "
    "shows them as the training left them."
)
_FORWARD = (
    "without `forward=` it is model(batch), model(batch[0]) for tuples and lists, and "
    "model(**batch) for mappings: where that does not fit give forward=lambda model, batch: ..."
)


def tracking_layers(model: nn.Module) -> dict[str, _NormBase]:
    """Layers whose running statistics are estimated anew (BatchNorm, SyncBatchNorm, ...)."""
    names = {module: name for name, module in model.named_modules()}
    return {names[each]: each for each in norm_layers(model) if each.track_running_stats}


def check_statistics(
    model: nn.Module, batches: Iterable[Batch] | None, forward: Forward | None
) -> None:
    """What `swapped` needs and would miss after the training, looked for before it."""
    if batches is not None:
        check_walkable(batches)
    for name in _own_statistics(model):
        warnings.warn(_NOT_OURS.format(name=name), stacklevel=user_level())
        break
    layers = tracking_layers(model)
    if not layers:
        return
    if batches is None:
        first = ", ".join(f"'{name}'" for name in islice(layers, 2))
        listed = f"{first}, ..." if len(layers) > 2 else first
        kind = type(model).__name__
        warnings.warn(_LATER.format(model=kind, layers=listed), stacklevel=user_level())
    elif isinstance(batches, Sequence):
        # A loader is not drawn from: its generator would shuffle the training otherwise.
        with preserved_statistics(layers.values()):
            reestimate(model, batches[:1], forward, shared=False)


def _own_statistics(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        frozen = isinstance(module, _NormBase) or "Frozen" in type(module).__name__
        for key, value in module.named_buffers(recurse=False):
            if key.startswith("running_") and value.is_floating_point() and not frozen:
                yield qualified_name(name, key)


@contextmanager
def preserved_statistics(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Give layers their buffers back."""
    kept: list[tuple[Tensor, Tensor]] = [
        (b, b.detach().clone()) for layer in layers for b in layer.buffers()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def plain_forward(model: nn.Module, batch: Batch) -> Any:
    """Call a model on a tensor, on the first entry of a tuple, or with those of a mapping."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, list | tuple) else batch)


def reestimate(
    model: nn.Module,
    batches: Iterable[Batch],
    forward: Forward | None,
    *,
    shared: bool = True,
) -> None:
    """Estimate the running statistics of norm layers anew, in place; of all processes."""
    call, device = forward or plain_forward, next(model.parameters()).device
    seen = 0

    def one_pass() -> None:
        nonlocal seen
        for batch in _ended(batches):
            with wrap_errors("a pass over `batches`", _FORWARD, ArgumentError):
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
        if shared:
            _share_statistics(model)


def _ended(batches: Iterable[Batch]) -> Iterable[Batch]:
    return batches if known_length(batches) is not None else islice(batches, _MOST)


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
