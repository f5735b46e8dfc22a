"""Sharded parameters (DTensor), and wrappers of modules."""

import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor, distributed, nn

from lossatlas.errors import RankError

# What wrappers of a module put into the names of its parameters.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Of DistributedDataParallel and DataParallel; only in front, since users have such names too.
_FIRST = "module."


def is_sharded(value: object) -> bool:
    """Whether a tensor is sharded."""
    return is_sharded_type(type(value))


def is_sharded_type(given: type) -> bool:
    """Whether tensors of a type are sharded."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and issubclass(given, kind)


def whole(value: Any) -> Tensor:
    """Gather the full tensor; all processes with a shard must call it."""
    if is_sharded(value):
        groups_of([value.device_mesh])
    full: Tensor = value.full_tensor() if is_sharded(value) else value
    # What waits for the collective counts as another class of tensor.
    return full.wait() if hasattr(full, "wait") else full


def own_piece(value: Any) -> Tensor:
    """Local memory of a parameter; writing into it changes the parameter."""
    piece: Tensor = value.detach()._local_tensor if is_sharded(value) else value
    return piece.data


def piece_of(full: Tensor, like: Any) -> Tensor:
    """Shard of a full tensor matching the local shard of another, without communication."""
    if is_sharded(full):
        full = whole(full)
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    groups_of([like.device_mesh])
    value = full.detach().to(like.device)
    placed: Any = distribute_tensor(
        value, like.device_mesh, like.placements, src_data_rank=None
    )
    piece: Tensor = placed._local_tensor
    return piece


def rows_of_piece(value: Any) -> range | None:
    """Rows of the full tensor in a shard; None if it is not split by rows."""
    mesh, placements = value.device_mesh, value.placements
    groups_of([mesh])
    if mesh.ndim != 1 or not placements[0].is_shard(0):
        return None
    rows = value.shape[0]
    each = -(-rows // mesh.size())
    start = min(mesh.get_local_rank() * each, rows)
    rows_here = range(start, min(start + each, rows))
    return rows_here if len(rows_here) == value._local_tensor.shape[0] else None


def meshes_of(model: nn.Module) -> list[Any]:
    """Device meshes of the parameters."""
    values: list[Any] = [value for value in model.parameters() if is_sharded(value)]
    return [value.device_mesh for value in values]


def groups_of(meshes: Iterable[Any]) -> list[Any]:
    """Process groups of meshes, which must not have been destroyed."""
    try:
        return [mesh.get_group(place) for mesh in meshes for place in range(mesh.ndim)]
    except RuntimeError as error:
        if not is_gone(error):
            raise
        raise RankError(
            "the group of processes that this model is spread over was destroyed; "
            "restart all of them."
        ) from None


def is_gone(error: Exception) -> bool:
    """Whether a torch error reports a destroyed process group."""
    return "Could not resolve the process group" in str(error)


def fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was applied to."""
    return list(filter(is_fsdp, model.modules()))


def is_fsdp(module: Any) -> bool:
    """Whether `fully_shard` was applied to a module."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return kind is not None and isinstance(module, kind)


def reshard(model: nn.Module) -> None:
    """Free the gathered weights of `fully_shard` modules."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for module in model.modules():
        reshard_one(module)


def reshard_one(module: Any) -> None:
    """The same for one module, without submodules; no effect on other modules."""
    if is_fsdp(module):
        # The outermost keeps the weights that it gathered after a pass.
        module.reshard()


def plain_name(name: str) -> str:
    """Name of a parameter without wrapper prefixes."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(_FIRST):
        name = name.removeprefix(_FIRST)
    return name
