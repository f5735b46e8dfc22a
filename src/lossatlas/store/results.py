"""Results on disk: one netCDF file a result, labelled arrays, no pickle."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import xarray as xr

from lossatlas.errors import ArgumentError, FileError
from lossatlas.store.files import check_readable, writing

FORMAT = 1
Tree = Mapping[str, xr.Dataset]


class Result(Protocol):
    """A frozen dataclass that can become labelled arrays and come back."""

    def to_tree(self) -> Tree:
        """The result as group name -> Dataset."""
        ...

    @classmethod
    def from_tree(cls, tree: Tree) -> Any:
        """The inverse of `to_tree`."""
        ...


R = TypeVar("R", bound=type)
_KINDS: dict[str, Any] = {}


def kind(name: str) -> Callable[[R], R]:
    """Class decorator: files of this kind hold results of this class.

    Args:
        name: the word written into the file.

    Returns:
        The decorator.
    """

    def register(cls: R) -> R:
        _KINDS[name] = cls
        cls.__kind__ = name  # type: ignore[attr-defined]
        return cls

    return register


def save(result: Any, path: str | Path) -> Path:
    """Write a result to one netCDF file; the name appears when the file is whole.

    Args:
        result: an instance of a class registered with `kind`.
        path: where; by convention `*.nc`.

    Returns:
        The path.

    Raises:
        ArgumentError: the class is not registered.
        FileError: the place cannot be written.
    """
    name = getattr(type(result), "__kind__", None)
    if name is None:
        raise ArgumentError(
            f"`result` must be a lossatlas result; got {type(result).__name__}."
        )
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"lossatlas_kind": name, "lossatlas_format": FORMAT})}
        | {f"/{group}": data for group, data in result.to_tree().items()}
    )
    with writing(path) as temporary:
        tree.to_netcdf(temporary, engine="h5netcdf", format="NETCDF4")
    return Path(path)


def load(path: str | Path) -> Any:
    """Read a result back.

    Args:
        path: a file written by `save`.

    Returns:
        The result, of the class that was saved.

    Raises:
        FileError: missing, damaged, or not written by lossatlas.
    """
    source = check_readable(path, "a lossatlas result")
    try:
        with contextlib.closing(xr.open_datatree(source, engine="h5netcdf")) as tree:
            name, written = (tree.attrs.get(f"lossatlas_{key}") for key in ("kind", "format"))
            groups = {key.strip("/"): node.to_dataset().load() for key, node in _groups(tree)}
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(
            f"'{source}' is damaged or not netCDF ({error}); make it again."
        ) from None
    if name not in _KINDS:
        raise FileError(f"'{source}' was not written by lossatlas (kind {name!r}).")
    if written != FORMAT:
        raise FileError(f"'{source}' has format {written}; this version reads format {FORMAT}.")
    return _KINDS[name].from_tree(groups)


def _groups(tree: xr.DataTree) -> list[tuple[str, xr.DataTree]]:
    return [(path, node) for path, node in tree.subtree_with_keys if path not in {"", "/", "."}]
