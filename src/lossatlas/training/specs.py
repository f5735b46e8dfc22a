"""Parse command-line specifications: `mlp(64, 64)`, `npz:FILE#x=images`, `a.b:make`."""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lossatlas.checks import nearest
from lossatlas.errors import (
    ArgumentError,
    FileError,
    MissingDependencyError,
    ModelError,
    UnknownNameError,
)
from lossatlas.objective.user_code import wrap_errors

_FACTORY = re.compile(r"(?P<place>.+):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Call:
    """A name with arguments, as in `chargpt(layers=2, tied=False)`.

    Attributes:
        name: the name before the parenthesis.
        args: the positional arguments.
        options: the arguments by name.
    """

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def parse_call(argument: str, spec: object) -> Call:
    """Read `name` or `name(1, 2, key=value)`; values are Python literals or bare words.

    Args:
        argument: name of the argument, for error messages.
        spec: the string.

    Returns:
        The parts.

    Raises:
        ArgumentError: `spec` is not a string, or the parentheses contain more than plain
            values.

    Examples:
        >>> parse_call("model", "mlp(64, 64, activation=tanh)")
        Call(name='mlp', args=(64, 64), options={'activation': 'tanh'})
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ArgumentError(f"`{argument}` must be a name such as 'mlp(64)'; got {spec!r}.")
    name, bracket, remainder = spec.strip().partition("(")
    if not bracket:
        return Call(name)
    try:
        args, options = _arguments(remainder)
    except (SyntaxError, ValueError):
        raise ArgumentError(
            f"`{argument}` must look like 'name(64, key=value)', plain values; got {spec!r}."
        ) from None
    return Call(name.strip(), args, options)


def split_options(spec: str) -> tuple[str, dict[str, Any]]:
    """Separate `PATH#key=value,key=value` into the path and the options.

    Args:
        spec: the string; a `#` not followed by `key=` belongs to the path.

    Returns:
        The path and the options; integers become int.

    Examples:
        >>> split_options("faces.npz#x=pixels,size=32")
        ('faces.npz', {'x': 'pixels', 'size': 32})
    """
    path, mark, tail = spec.rpartition("#")
    pairs = [part.split("=", 1) for part in tail.split(",")]
    if not mark or any(len(pair) != 2 for pair in pairs):
        return spec, {}
    return path, {key.strip(): _number(value.strip()) for key, value in pairs}


def is_factory(spec: object) -> bool:
    """Whether a spec has the form `package.module:name` or `path/file.py:name`."""
    return (
        isinstance(spec, str) and _FACTORY.fullmatch(spec.partition("(")[0].strip()) is not None
    )


def find_factory(argument: str, spec: str) -> Callable[..., Any]:
    """Import what `package.module:name` or `path/file.py:name` refers to, running its code."""
    match = _FACTORY.fullmatch(spec.strip())
    if match is None:
        raise ArgumentError(f"`{argument}` must look like 'package.module:name'; got {spec!r}.")
    location, name = match["place"], match["name"]
    module = (
        _import_file(argument, Path(location).expanduser())
        if location.endswith(".py")
        else _import_name(argument, location)
    )
    factory = getattr(module, name, None)
    if factory is None:
        raise UnknownNameError(
            f"`{argument}`: '{location}' has no '{name}'{nearest(name, vars(module))}."
        )
    if not callable(factory):
        kind = type(factory).__name__
        raise ArgumentError(f"`{argument}` must name a function; '{spec}' is of type {kind}.")
    return factory  # type: ignore[no-any-return]


def _import_name(argument: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ArgumentError(
            f"`{argument}` must look like 'package.module:name' or 'path/file.py:name'; "
            f"got {name!r}."
        )
    with _importing_from(Path.cwd()), _running(argument, name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(f"{error.name}.")):
                raise UnknownNameError(
                    f"`{argument}`: there is no module '{error.name}'; install it, or use its "
                    "path: 'path/file.py:name'."
                ) from None
            raise _missing(argument, name, error) from None
        except SyntaxError as error:
            raise ModelError(f"`{argument}`: '{name}' is not valid Python ({error}).") from None


def _import_file(argument: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise FileError(
            f"`{argument}`: there is no file '{path}'; give the path of a .py file."
        )
    name = f"_lossatlas_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileError(f"`{argument}`: '{path}' cannot be imported; give a .py file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while the file runs.
    sys.modules[name] = module
    with _importing_from(path.resolve().parent), _running(argument, str(path)):
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            raise _missing(argument, str(path), error) from None
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ModelError(f"`{argument}`: '{path}' is not valid Python ({error}).") from None
    return module


def _missing(
    argument: str, location: str, error: ModuleNotFoundError
) -> MissingDependencyError:
    return MissingDependencyError(
        f"`{argument}`: '{location}' imports '{error.name}', which is not installed; install "
        "it."
    )


def _running(argument: str, location: str) -> AbstractContextManager[None]:
    what = f"`{argument}`: '{location}'"
    return wrap_errors(what, "it runs when it is imported: check its code.", ModelError)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _arguments(text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call = ast.parse(f"f({text}", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(text)
    args = tuple(_literal(node) for node in call.args)
    return args, {str(pair.arg): _literal(pair.value) for pair in call.keywords}


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text
