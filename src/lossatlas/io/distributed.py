"""Read folders of `torch.distributed.checkpoint` on one process, without unpickling."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.errors import FileError
from lossatlas.io.pickled import Record, read_pickle

if TYPE_CHECKING:
    from torch import Tensor

METADATA = ".metadata"


def read_distributed(
    folder: Path, read_tensor: Callable[[io.BytesIO], "Tensor"]
) -> dict[str, Any]:
    """Read all tensors of a folder, nested as saved."""
    try:
        index = read_pickle((folder / METADATA).read_bytes())
        shards = {_place(key): value for key, value in index.get("storage_data").items()}
        paths = index.get("planner_data") or {}
        nested: dict[str, Any] = {}
        for name, entry in index.get("state_dict_metadata").items():
            if isinstance(entry, Record) and entry.name.endswith(".TensorStorageMetadata"):
                value = _assemble(folder, name, entry, shards, read_tensor)
                _put(nested, tuple(map(str, paths.get(name, (name,)))), value)
    except FileError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OSError, RuntimeError) as error:
        raise FileError(
            f"'{folder}' is a damaged folder of torch.distributed.checkpoint, or of a version "
            f"that is not known ({error}); convert it once with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save."
        ) from None
    return nested


def _assemble(
    folder: Path,
    name: str,
    entry: Record,
    shards: dict[tuple[str, tuple[int, ...]], Record],
    read_tensor: Callable[[io.BytesIO], "Tensor"],
) -> "Tensor":
    import torch

    shape = _sizes(entry.get("size"))
    pieces = []
    for chunk in entry.get("chunks"):
        start = _sizes(chunk.get("offsets"))
        piece = read_tensor(_bytes(folder, shards[name, start]))
        if tuple(piece.shape) != _sizes(chunk.get("sizes")):
            raise FileError(
                f"'{folder}': a piece of '{name}' has another shape than it states."
            )
        pieces.append((start, piece))
    held = sum(piece.numel() for _, piece in pieces)
    if held != math.prod(shape):
        raise FileError(
            f"'{folder}': '{name}' states shape {shape}, but its pieces hold {held} numbers; "
            "save it again."
        )
    whole, filled = pieces[0][1].new_empty(shape), torch.zeros(shape, dtype=torch.bool)
    for start, piece in pieces:
        where = tuple(slice(a, a + n) for a, n in zip(start, piece.shape, strict=True))
        whole[where], filled[where] = piece, True
    if not filled.all():
        # Pieces that overlap hold as many numbers and leave a hole.
        raise FileError(f"'{folder}': the pieces of '{name}' overlap; save it again.")
    return whole


def _bytes(folder: Path, info: Record) -> io.BytesIO:
    path = folder / str(info.get("relative_path"))
    offset, length = int(info.get("offset")), int(info.get("length"))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FileError(
            f"'{folder}' refers to a file outside itself ('{path}') and is rejected."
        )
    if info.state.get("transform_descriptors"):
        raise ValueError("its pieces are compressed")
    with path.open("rb") as file:
        if offset < 0 or offset + length > path.stat().st_size:
            raise FileError(f"'{path}' is truncated; copy or save it again.")
        file.seek(offset)
        return io.BytesIO(file.read(length))


def _place(key: Record) -> tuple[str, tuple[int, ...]]:
    offset = key.state.get("offset")
    return key.get("fqn"), () if offset is None else _sizes(offset)


def _sizes(value: Any) -> tuple[int, ...]:
    # torch.Size is a call with one argument.
    inner = value.args[0] if isinstance(value, Record) and value.args else value
    return () if isinstance(inner, Record) else tuple(map(int, inner))


def _put(nested: dict[str, Any], path: tuple[str, ...], value: "Tensor") -> None:
    *groups, last = path
    for group in groups:
        nested = nested.setdefault(group, {})
    nested[last] = value
