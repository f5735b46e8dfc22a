"""Parameters that are pieces of a whole, one on each process (DTensor), and their wrappers."""

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
    """Whether a tensor is a piece of a whole."""
    return is_sharded_type(type(value))


def is_sharded_type(given: type) -> bool:
    """Whether tensors of a type are pieces of a whole."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and issubclass(given, kind)


def whole(value: Any) -> Tensor:
    """The whole of a tensor; all processes that hold a piece must ask."""
    if is_sharded(value):
        groups_of([value.device_mesh])
    full: Tensor = value.full_tensor() if is_sharded(value) else value
    # What waits for the collective counts as another class of tensor.
    return full.wait() if hasattr(full, "wait") else full


def own_piece(value: Any) -> Tensor:
    """The memory of a parameter on this process; writing into it changes the parameter."""
    piece: Tensor = value.detach()._local_tensor if is_sharded(value) else value
    return piece.data


def piece_of(full: Tensor, like: Any) -> Tensor:
    """The part of a whole tensor that this process holds of another one; nothing is sent."""
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
    """Which rows of a whole tensor a piece of it holds; None where it is cut otherwise."""
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
    """The meshes of processes that parameters are spread over."""
    values: list[Any] = [value for value in model.parameters() if is_sharded(value)]
    return [value.device_mesh for value in values]


def groups_of(meshes: Iterable[Any]) -> list[Any]:
    """The groups of processes of meshes, which must not have been destroyed."""
    try:
        return [mesh.get_group(place) for mesh in meshes for place in range(mesh.ndim)]
    except RuntimeError as error:
        if not is_gone(error):
            raise
        raise RankError(
            "the group of processes that this model is spread over was destroyed; start all of "
            "them anew."
        ) from None


def is_gone(error: Exception) -> bool:
    """Whether torch says that a group of processes is no longer there."""
    return "Could not resolve the process group" in str(error)


def fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was applied to."""
    return list(filter(is_fsdp, model.modules()))


def is_fsdp(module: Any) -> bool:
    """Whether `fully_shard` was applied to a module."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return kind is not None and isinstance(module, kind)


def reshard(model: nn.Module) -> None:
    """Let modules of `fully_shard` hold their pieces, and no weights that they gathered."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for module in model.modules():
        reshard_one(module)


def reshard_one(module: Any) -> None:
    """The same for one module, without those inside; nothing for modules of other kinds."""
    if is_fsdp(module):
        # The outermost keeps the weights that it gathered after a pass.
        module.reshard()


def plain_name(name: str) -> str:
    """The name of a parameter without what wrappers of its module put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(_FIRST):
        name = name.removeprefix(_FIRST)
    return name
