"""Records on disk and in ledgers: frozen dataclasses of numbers, text, arrays and tensors.

Arrays are stored raw, named by their location; everything else is JSON. Nothing is unpickled,
and only registered classes are built.
"""

import contextlib
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lossatlas.errors import ArgumentError, FileError, ResumeError
from lossatlas.io.provenance import Provenance

if TYPE_CHECKING:
    import xarray as xr

C = TypeVar("C", bound=type)
Arrays = Mapping[str, "np.ndarray[Any, Any]"]
_HEAD, _BEGIN = 8, b'{"fields": '
_CLASSES: dict[str, type] = {"Provenance": Provenance}


def record(cls: C) -> C:
    """Class decorator: instances of this frozen dataclass may be parts of stored results."""
    other = _CLASSES.setdefault(cls.__name__, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ArgumentError(
            f"two records are called {cls.__name__} ({other.__module__}, {cls.__module__}); "
            "rename one of them."
        )
    _CLASSES[cls.__name__] = cls
    return cls


def to_dataset(value: Any) -> "xr.Dataset":
    """Convert a record to one labeled data set."""
    import xarray as xr

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = json.dumps(_encoded(value, "", arrays))
    variables = {k: ([f"{k}:{i}" for i in range(a.ndim)], a) for k, a in arrays.items()}
    return xr.Dataset(variables, attrs={"fields": text})


def from_dataset(data: "xr.Dataset") -> Any:
    """The inverse of `to_dataset`."""
    if "fields" not in data.attrs:
        raise FileError("the file holds no record of lossatlas; make it again.")
    arrays = {str(name): variable.to_numpy() for name, variable in data.data_vars.items()}
    return _decoded(json.loads(data.attrs["fields"]), arrays)


def to_bytes(value: Any) -> bytes:
    """Convert a record, array, tensor or plain value to bytes: a JSON header and raw arrays.

    Args:
        value: numbers, text, arrays, tensors, records, and lists or mappings of them.

    Returns:
        Bytes for `from_bytes`; lists are restored as tuples and numpy scalars as plain numbers,
        everything else bitwise.

    Raises:
        ArgumentError: the value contains other types.

    Examples:
        >>> from_bytes(to_bytes({"loss": np.array([0.5, np.nan]), "seed": 1}))["loss"]
        array([0.5, nan])
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    try:
        text = json.dumps(_encoded(value, "", arrays))
    except (TypeError, AttributeError, ValueError):
        text = ""
    if not text or any(array.dtype.hasobject for array in arrays.values()):
        raise ArgumentError(
            "`value` must hold numbers, text, arrays, tensors, records, lists and mappings of "
            f"text to them; got {type(value).__name__} with something else."
        )
    forms = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    head = f'{{"fields": {text}, "arrays": {json.dumps(forms)}}}'.encode()
    parts = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    return b"".join([len(head).to_bytes(_HEAD, "little"), head, *parts])


def holds_record(path: Path) -> bool:
    """Whether a file starts like the output of `to_bytes`."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD + len(_BEGIN))[_HEAD:] == _BEGIN
    except OSError:
        return False


def from_bytes(data: bytes) -> Any:
    """The inverse of `to_bytes`.

    Nothing is unpickled, and no array larger than the bytes is allocated.

    Args:
        data: output of `to_bytes`.

    Returns:
        An equal value.

    Raises:
        ResumeError: the bytes are damaged.

    Examples:
        >>> from_bytes(to_bytes([1.5, "a"]))
        (1.5, 'a')
    """
    try:
        place = _HEAD + int.from_bytes(data[:_HEAD], "little")
        head, arrays = json.loads(data[_HEAD:place]), {}
        for name, (kind, shape) in head["arrays"].items():
            dtype, count = np.dtype(kind), math.prod(shape)
            flat = np.frombuffer(data, dtype, count, place) if count else np.empty(0, dtype)
            arrays[name] = flat.reshape(shape).copy()
            place += flat.nbytes
        return _decoded(head["fields"], arrays)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, FileError) as error:
        raise ResumeError(
            f"an entry of the resume file is damaged ({error}); remove the file and start "
            "again."
        ) from None


def equal(a: Any, b: Any) -> bool:
    """Whether two records are bitwise equal; NaN equals NaN."""
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
    host = tensor.detach().cpu()
    # numpy has no bfloat16; float32 holds each of its values exactly.
    array: np.ndarray[Any, Any] = (
        host.float() if str(host.dtype) == "torch.bfloat16" else host
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


def _decoded(value: Any, arrays: Arrays) -> Any:
    if not isinstance(value, dict):
        return value
    marker = next((key for key in value if key in _DECODERS), None)
    if marker is None:
        raise FileError("the file holds an unknown kind of entry; make it again.")
    return _DECODERS[marker](value, arrays)


def _decoded_tensor(value: Any, arrays: Arrays) -> Any:
    import torch

    array = np.array(arrays[value["$tensor"]])
    return torch.from_numpy(array).to(getattr(torch, value["dtype"]))


def _decoded_masked(value: Any, arrays: Arrays) -> Any:
    mask = arrays[value["mask"]].astype(bool)
    return np.ma.masked_array(arrays[value["$masked"]], mask)


def _decoded_class(value: Any, arrays: Arrays) -> Any:
    name, home = value["$class"], str(value.get("home", ""))
    # Records register themselves when their module is imported; only our own are.
    if name not in _CLASSES and re.fullmatch(r"lossatlas(\.[a-z_]+)+", home):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(home)
    if name not in _CLASSES:
        raise FileError(f"the file holds an unknown part {name!r}.")
    entries = {key: _decoded(item, arrays) for key, item in value["entries"].items()}
    return _CLASSES[name](**entries)


_DECODERS: dict[str, Callable[[Any, Arrays], Any]] = {
    "$array": lambda value, arrays: arrays[value["$array"]],
    "$masked": _decoded_masked,
    "$tensor": _decoded_tensor,
    "$list": lambda value, arrays: tuple(_decoded(item, arrays) for item in value["$list"]),
    "$map": lambda value, arrays: {
        k: _decoded(item, arrays) for k, item in value["$map"].items()
    },
    "$class": _decoded_class,
}
