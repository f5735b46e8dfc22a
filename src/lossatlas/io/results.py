"""Results on disk: one netCDF file per result, labeled arrays, no pickle."""

import contextlib
import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from lossatlas.errors import ArgumentError, FileError
from lossatlas.io.files import check_readable, writing
from lossatlas.io.sizes import check_netcdf

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 1
Tree: TypeAlias = Mapping[str, "xr.Dataset"]


class Result(Protocol):
    """A frozen dataclass that converts to labeled arrays and back."""

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
        name: the kind written into the file.

    Returns:
        The decorator.
    """

    def register(cls: R) -> R:
        _KINDS[name] = cls
        cls.__kind__ = name  # type: ignore[attr-defined]
        return cls

    return register


def save(result: Any, path: str | Path) -> Path:
    """Write a result to one netCDF file, atomically.

    Args:
        result: an instance of a class registered with `kind`.
        path: the file, by convention `*.nc`. An existing file is replaced.

    Returns:
        The path.

    Raises:
        ArgumentError: the class is not registered.
        FileError: the path cannot be written.
    """
    import xarray as xr

    name = getattr(type(result), "__kind__", None)
    if name is None:
        raise ArgumentError(
            f"`result` must be a lossatlas result; got {type(result).__name__}."
        )
    head = {"kind": name, "format": FORMAT, "home": type(result).__module__}
    root = xr.Dataset(attrs={f"lossatlas_{key}": value for key, value in head.items()})
    groups = {f"/{group}": data for group, data in result.to_tree().items()}
    tree = xr.DataTree.from_dict({"/": root} | groups)
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
        FileError: the file is missing, damaged, or not written by lossatlas.
    """
    source = check_readable(path, "a lossatlas result")
    head, groups = _read(source)
    if head["format"] not in {FORMAT, None}:
        raise FileError(
            f"'{source}' has format {head['format']}; this version reads format {FORMAT}."
        )
    kind = _find(str(head["kind"]), str(head["home"]))
    if kind is None:
        raise FileError(f"'{source}' was not written by lossatlas (kind {head['kind']!r}).")
    try:
        return kind.from_tree(groups)
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise FileError(
            f"'{source}' lacks a part of a {head['kind']} ({error}); make it again."
        ) from None


def kind_of(path: Path) -> str | None:
    """Kind of the result in a file, or None."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("lossatlas_kind")
    except (OSError, ValueError, KeyError, RuntimeError, TypeError):
        return None
    return kind if isinstance(kind, str) else None


def nested(parts: Mapping[str, Tree]) -> "dict[str, xr.Dataset]":
    """Nest the groups of several results under their names, for composite results.

    Args:
        parts: name -> output of its `to_tree`.

    Returns:
        "name/group" -> Dataset.
    """
    return {
        f"{part}/{name}": data for part, tree in parts.items() for name, data in tree.items()
    }


def below(tree: Tree, part: str) -> "dict[str, xr.Dataset]":
    """The groups of one part of the output of `nested`.

    Args:
        tree: "name/group" -> Dataset.
        part: the name.

    Returns:
        group -> Dataset, for `from_tree` of that part.
    """
    prefix = f"{part}/"
    return {n.removeprefix(prefix): data for n, data in tree.items() if n.startswith(prefix)}


def _read(source: Path) -> "tuple[dict[str, Any], dict[str, xr.Dataset]]":
    import xarray as xr

    try:
        check_netcdf(source)
        with contextlib.closing(xr.open_datatree(source, engine="h5netcdf")) as tree:
            head = {k: tree.attrs.get(f"lossatlas_{k}") for k in ("kind", "format", "home")}
            groups = {key.strip("/"): node.to_dataset().load() for key, node in _groups(tree)}
    except FileError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, OverflowError) as error:
        raise FileError(
            f"'{source}' is damaged or not netCDF ({error}); create it again."
        ) from None
    return head, groups


def _find(name: str, home: str) -> Any:
    # Results register themselves when their module is imported; only our own are.
    if name not in _KINDS and re.fullmatch(r"lossatlas(\.[a-z_]+)+", home):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(home)
    return _KINDS.get(name)


def _groups(tree: "xr.DataTree") -> "list[tuple[str, xr.DataTree]]":
    return [(path, node) for path, node in tree.subtree_with_keys if path not in {"", "/", "."}]
