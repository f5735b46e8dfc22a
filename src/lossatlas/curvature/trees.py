"""Results of this room as labeled arrays, and back: one walk serves every dataclass."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr

from lossatlas.errors import FileError
from lossatlas.linalg.estimators import Estimate
from lossatlas.store import Provenance

Tree = dict[str, xr.Dataset]
C = TypeVar("C", bound=type)

_CLASSES: dict[str, type] = {"Estimate": Estimate, "Provenance": Provenance}


def part(cls: C) -> C:
    """Class decorator: instances may be found inside results on disk.

    Args:
        cls: a frozen dataclass.

    Returns:
        The same class.
    """
    _CLASSES[cls.__name__] = cls
    return cls


@dataclass(frozen=True)
class Stored:
    """A base for results: any frozen dataclass of numbers, text, arrays, tensors and parts.

    Attributes:
        checked: what the derivatives of the loss under it were held against, and to how much,
            a sentence each; none where it rests on no derivative of the loss.
    """

    checked: tuple[str, ...] = field(default=(), kw_only=True, repr=False)

    def to_tree(self) -> Tree:
        """The result as one labeled data set; numbers and text are its attribute "fields".

        Returns:
            Group name -> Dataset.
        """
        arrays: dict[str, Any] = {}
        text = json.dumps(_encode(self, "", arrays))
        data = xr.Dataset(
            {k: ([f"{k}:{i}" for i in range(a.ndim)], a) for k, a in arrays.items()}
        )
        return {"result": data.assign_attrs(fields=text)}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> Any:
        """The inverse of `to_tree`.

        Args:
            tree: what `to_tree` gave.

        Returns:
            An equal result.

        Raises:
            FileError: the tree holds something else.
        """
        if "result" not in tree or "fields" not in tree["result"].attrs:
            raise FileError(f"the file holds no {cls.__name__}; make it again.")
        data = tree["result"]
        return _decode(json.loads(data.attrs["fields"]), data)


def _encode(value: Any, path: str, arrays: dict[str, Any]) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        arrays[path] = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"$array": path}
    if is_dataclass(value) and not isinstance(value, type):
        entries = {
            f.name: _encode(getattr(value, f.name), f"{path}|{f.name}".strip("|"), arrays)
            for f in fields(value)
        }
        return {"$class": type(value).__name__, "entries": entries}
    if isinstance(value, Mapping):
        return {"$map": {k: _encode(v, f"{path}|{k}", arrays) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return {"$list": [_encode(v, f"{path}|{i}", arrays) for i, v in enumerate(value)]}
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any, data: xr.Dataset) -> Any:
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return data[value["$array"]].to_numpy()
    if "$tensor" in value:
        return torch.from_numpy(np.array(data[value["$tensor"]].to_numpy()))
    if "$list" in value:
        return tuple(_decode(item, data) for item in value["$list"])
    if "$map" in value:
        return {key: _decode(item, data) for key, item in value["$map"].items()}
    if value.get("$class") not in _CLASSES:
        raise FileError(f"the file holds an unknown part {value.get('$class')!r}.")
    entries = {key: _decode(item, data) for key, item in value["entries"].items()}
    return _CLASSES[value["$class"]](**entries)
