"""Wrapped and sharded models: what a process holds of each weight, sums over all of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.shards import is_sharded


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile and the data-parallel wrappers."""
    while True:
        inner: Any = None
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        elif hasattr(model, "_orig_mod"):
            inner = model._orig_mod
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def placements(tensor: Tensor) -> Sequence[Any]:
    """How a tensor lies on the processes, one placement a mesh axis; empty if it is whole."""
    placements: Sequence[Any] = getattr(tensor, "placements", ())
    return placements


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; the tensor itself where it is whole."""
    if not hasattr(tensor, "to_local"):
        return tensor
    part: Tensor = tensor.to_local()
    return part


def summed(value: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """A sum over local parts, as the sum over all processes where the tensors are sharded."""
    spread = torch.distributed
    if spread.is_available() and spread.is_initialized() and any(map(is_sharded, tensors)):
        value = value.clone()
        spread.all_reduce(value)
    return value


@torch.no_grad()
def is_finite(tensors: Sequence[Tensor], *, sharded: bool, half: bool) -> bool:
    """Whether all numbers are finite, on every process that holds a part."""
    parts = [local(t) for t in tensors] if sharded else list(tensors)
    # Norms of half-precision weights overflow where the weights do not.
    norms = torch._foreach_norm(parts, 2, dtype=torch.float32 if half else None)
    if len({n.dtype for n in norms} | {n.device for n in norms}) > 2:
        norms = tuple(n.to(norms[0]) for n in norms)
    total = torch.stack(norms).sum()
    return bool((summed(total, tensors) if sharded else total).isfinite())
