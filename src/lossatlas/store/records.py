"""Records on disk: any frozen dataclass of numbers, text, arrays, tensors and other records.

Arrays become variables of one data set, under names that say where they are; everything else is
JSON beside them. Nothing is unpickled, and only registered classes are built.
"""

import contextlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lossatlas.errors import ArgumentError, FileError
from lossatlas.store.provenance import Provenance

if TYPE_CHECKING:
    import xarray as xr

C = TypeVar("C", bound=type)
_CLASSES: dict[str, type] = {"Provenance": Provenance}


def record(cls: C) -> C:
    """Class decorator: instances of this frozen dataclass may be parts of stored results."""
    other = _CLASSES.setdefault(cls.__name__, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ArgumentError(
            f"two records are called {cls.__name__} ({other.__module__}, {cls.__module__}); "
            "give one another name."
        )
    _CLASSES[cls.__name__] = cls
    return cls


def to_dataset(value: Any) -> "xr.Dataset":
    """A record as one labeled data set."""
    import xarray as xr

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = json.dumps(_encoded(value, "", arrays))
    variables = {k: ([f"{k}:{i}" for i in range(a.ndim)], a) for k, a in arrays.items()}
    return xr.Dataset(variables, attrs={"fields": text})


def from_dataset(data: "xr.Dataset") -> Any:
    """The inverse of `to_dataset`."""
    if "fields" not in data.attrs:
        raise FileError("the file holds no record of lossatlas; make it again.")
    return _decoded(json.loads(data.attrs["fields"]), data)


def equal(a: Any, b: Any) -> bool:
    """Whether two records are the same to the last bit; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if is_dataclass(a) and not isinstance(a, type):
        names = [f.name for f in fields(a) if f.compare]
        return all(equal(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return _equal_leaves(a, b)


def _equal_leaves(a: Any, b: Any) -> bool:
    if hasattr(a, "detach"):
        return a.dtype == b.dtype and _equal_leaves(_as_array(a), _as_array(b))
    if isinstance(a, np.ma.MaskedArray):
        pairs = ((np.ma.getmaskarray(x), np.ma.getdata(x)) for x in (a, b))
        return all(map(_equal_leaves, *pairs))
    first, second = np.asarray(a), np.asarray(b)
    nan = first.dtype.kind in "fc"
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=nan)


def _as_array(tensor: Any) -> np.ndarray[Any, Any]:
    kept = tensor.detach().cpu()
    # numpy has no bfloat16; float32 holds each of its values exactly.
    array: np.ndarray[Any, Any] = (
        kept.float() if str(kept.dtype) == "torch.bfloat16" else kept
    ).numpy()
    return array


def _encoded(value: Any, path: str, arrays: dict[str, Any]) -> Any:
    if hasattr(value, "detach"):
        return _encoded_tensor(value, path, arrays)
    if isinstance(value, np.ndarray):
        return _encoded_array(value, path, arrays)
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in fields(value)}
        entries = {k: _encoded(v, f"{path}|{k}".strip("|"), arrays) for k, v in named.items()}
        cls = type(value)
        return {"$class": cls.__name__, "home": cls.__module__, "entries": entries}
    if isinstance(value, Mapping):
        return {"$map": {k: _encoded(v, f"{path}|{k}", arrays) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return {"$list": [_encoded(v, f"{path}|{i}", arrays) for i, v in enumerate(value)]}
    return value.item() if isinstance(value, np.generic) else value


def _encoded_tensor(value: Any, path: str, arrays: dict[str, Any]) -> dict[str, str]:
    dtype = str(value.dtype).removeprefix("torch.")
    return {"$tensor": _named(path, _as_array(value), arrays), "dtype": dtype}


def _encoded_array(value: Any, path: str, arrays: dict[str, Any]) -> dict[str, str]:
    if not isinstance(value, np.ma.MaskedArray):
        return {"$array": _named(path, value, arrays)}
    mask = _named(f"{path}|mask", np.ma.getmaskarray(value), arrays)
    return {"$masked": _named(path, np.ma.getdata(value), arrays), "mask": mask}


def _named(path: str, array: Any, arrays: dict[str, Any]) -> str:
    # Keys of mappings are free text, and a slash would be a group in the file.
    name = base = re.sub(r"[^\w|. -]", "_", path) or "value"
    while name in arrays:
        name = f"{base}|{len(arrays)}"
    arrays[name] = array
    return name


def _decoded(value: Any, data: "xr.Dataset") -> Any:
    if not isinstance(value, dict):
        return value
    marker = next((key for key in value if key in _DECODERS), None)
    if marker is None:
        raise FileError("the file holds an unknown kind of entry; make it again.")
    return _DECODERS[marker](value, data)


def _decoded_tensor(value: Any, data: "xr.Dataset") -> Any:
    import torch

    array = np.array(data[value["$tensor"]].to_numpy())
    return torch.from_numpy(array).to(getattr(torch, value["dtype"]))


def _decoded_masked(value: Any, data: "xr.Dataset") -> Any:
    mask = data[value["mask"]].to_numpy().astype(bool)
    return np.ma.masked_array(data[value["$masked"]].to_numpy(), mask)


def _decoded_class(value: Any, data: "xr.Dataset") -> Any:
    name, home = value["$class"], str(value.get("home", ""))
    # Records register themselves when their module is imported; only our own are.
    if name not in _CLASSES and re.fullmatch(r"lossatlas(\.[a-z_]+)+", home):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(home)
    if name not in _CLASSES:
        raise FileError(f"the file holds an unknown part {name!r}.")
    entries = {key: _decoded(item, data) for key, item in value["entries"].items()}
    return _CLASSES[name](**entries)


_DECODERS: dict[str, Callable[[Any, "xr.Dataset"], Any]] = {
    "$array": lambda value, data: data[value["$array"]].to_numpy(),
    "$masked": _decoded_masked,
    "$tensor": _decoded_tensor,
    "$list": lambda value, data: tuple(_decoded(item, data) for item in value["$list"]),
    "$map": lambda value, data: {k: _decoded(item, data) for k, item in value["$map"].items()},
    "$class": _decoded_class,
}
