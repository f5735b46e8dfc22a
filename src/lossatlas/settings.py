"""Settings: one pydantic model serves the command line, YAML files and Python."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from lossatlas.checks import nearest
from lossatlas.errors import ArgumentError, FileError, UnknownNameError

# The panel of options that every command takes.
COMMON = "Every command"
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Settings that reject unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _split(given: object) -> object:
    if isinstance(given, str):
        return tuple(part.strip() for part in given.split(",") if part.strip())
    return given if given is None or isinstance(given, list | tuple) else (given,)


# Several values: a list, one value, or one text with commas between them.
LISTED = BeforeValidator(_split)


def option(
    default: Any,
    help: str,
    *,
    group: str = "",
    name: str = "",
    short: str = "",
    metavar: str = "",
    positional: bool = False,
    **limits: Any,
) -> Any:
    """A field of a settings model, with its command-line option.

    Args:
        default: default value; `...` if required.
        help: help text in full sentences.
        group: panel of the help.
        name: name of the option, if not that of the field.
        short: one letter.
        metavar: placeholder of the value in the help.
        positional: whether it is a positional argument.
        **limits: constraints of pydantic's `Field`, such as `ge=1`.

    Returns:
        The field.
    """
    extra: JsonDict = {
        "group": group,
        "name": name,
        "short": short,
        "metavar": metavar,
        "positional": positional,
    }
    return Field(default=default, description=help, json_schema_extra=extra, **limits)


subject = partial(option, group="Model and data")
common = partial(option, group=COMMON)

# Sentences that several models share.
MODEL = (
    "mlp, cnn, resnet20, resnet56, vit or chargpt, with arguments as in 'mlp(64,64)'; or your "
    "own, package.module:factory or path/file.py:factory."
)
DATA = (
    "digits, parquet:PATH, folder:PATH, npz:PATH (inputs x and targets y, or "
    "npz:PATH#x=NAME,y=NAME), text:PATH, or your own, "
    "package.module:factory or path/file.py:factory: a function that returns (inputs, targets) "
    "as tensors, a lossatlas.training.Dataset, a torch Dataset or a list of batches."
)
OTHER_DATA = "Given as in --data."
LOSS = (
    "cross_entropy, error, mse, l1, huber, bce, or your own, package.module:function or "
    "path/file.py:function. By default what fits the data."
)
EXAMPLES = "Use only the first so many examples."
DEVICE = "Where to compute, as in cuda."
TITLE = "Report title."
SEED = "Random seed."


def about(field: FieldInfo) -> dict[str, Any]:
    """Arguments of `option` for a field; empty for plain fields."""
    extra = field.json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


@cache
def defaults(place: str) -> dict[str, Any]:
    """Plain defaults of a function, read from its source to avoid heavy imports.

    Args:
        place: location such as "surveys.survey:survey" or "forecast.result:Fit.predict".

    Returns:
        Keyword -> default; keywords without a plain default are left out.
    """
    module, _, path = place.partition(":")
    node: Any = _parsed(module)
    for name in path.split("."):
        node = next(part for part in node.body if getattr(part, "name", None) == name)
    values = {}
    for name, value in _pairs(node):
        with suppress(ValueError, TypeError):
            values[name] = _plain(value, module)
    return values


# The defaults of a function, or the fields of a dataclass.
def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.ClassDef):
        fields = (part for part in node.body if isinstance(part, ast.AnnAssign))
        yield from ((ast.unparse(part.target), part.value) for part in fields)
        return
    named = [*node.args.posonlyargs, *node.args.args][::-1]
    yield from zip((n.arg for n in named), node.args.defaults[::-1], strict=False)
    named = node.args.kwonlyargs
    yield from zip((n.arg for n in named), node.args.kw_defaults, strict=True)


@cache
def _parsed(module: str) -> ast.Module:
    path = module.replace(".", "/")
    file = resources.files("lossatlas").joinpath(f"{path}.py")
    if not file.is_file():
        file = resources.files("lossatlas").joinpath(f"{path}/__init__.py")
    return ast.parse(file.read_text(encoding="utf-8"))


# A literal, or a constant of the module or of one that it imports from.
def _plain(value: Any, module: str) -> Any:
    if not isinstance(value, ast.Name):
        return ast.literal_eval(value)
    for part in _parsed(module).body:
        targets = part.targets if isinstance(part, ast.Assign) else ()
        if any(getattr(target, "id", None) == value.id for target in targets):
            return _plain(part.value, module)  # type: ignore[attr-defined]
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("lossatlas."):
            for alias in part.names:
                if (alias.asname or alias.name) == value.id:
                    source = str(part.module).removeprefix("lossatlas.")
                    return _plain(ast.Name(alias.name), source)
    raise ValueError(value.id)


def read_settings(
    kind: type[Model],
    *,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Combine settings: defaults, then the file, then assignments, then options.

    Args:
        kind: class of the settings.
        config: a YAML file.
        assignments: strings such as "map.tolerance=0.001".
        options: values by name, with dots for groups.

    Returns:
        The settings.

    Raises:
        ArgumentError: a value is invalid, or a string is not an assignment.
        FileError: the file cannot be read, or is not YAML.
        UnknownNameError: there is no such setting (the message gives the nearest match).
    """
    merged = _read(config) if config else {}
    for assignment in assignments:
        _assign(merged, assignment)
    for name, value in (options or {}).items():
        _put(merged, name, value, f"{name}={value}")
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        named: ArgumentError | UnknownNameError = _named(kind, error.errors()[0])
        raise named from None


def _read(config: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"`config`: '{config}' cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise FileError(f"`config`: '{config}' is not YAML ({_trouble(error)}).") from None
    if content is not None and not isinstance(content, dict):
        raise FileError(f"`config`: '{config}' must hold names and values, as in 'points: 31'.")
    # What `--json` printed holds the settings among other things.
    plain = (content or {}).get("settings", content or {})
    return dict(plain)


def _trouble(error: yaml.YAMLError) -> str:
    where = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{what}, line {where.line + 1}" if where is not None else what


def _assign(merged: dict[str, Any], assignment: str) -> None:
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise ArgumentError(f"`set` must look like 'map.tolerance=0.001'; got {assignment!r}.")
    try:
        _put(merged, name, yaml.safe_load(value), assignment)
    except yaml.YAMLError:
        raise ArgumentError(f"`set`: cannot read the value of {assignment!r}.") from None


def _put(merged: dict[str, Any], name: str, value: Any, assignment: str) -> None:
    *path, last = name.strip().split(".")
    place = merged
    for key in path:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ArgumentError(
                f"`set`: '{key}' holds a value, not a group; got {assignment!r}."
            )
    place[last] = value


_UNION_PARTS = {"float", "int", "str", "literal['auto']"}


def _named(kind: type[BaseModel], error: Any) -> ArgumentError | UnknownNameError:
    path, got = [str(part) for part in error["loc"]], error.get("input")
    if error["type"] == "extra_forbidden":
        return _unknown(kind, path, got)
    # Places inside a union ("span.float") are not names that a user knows.
    name = ".".join(part for part in path if part not in _UNION_PARTS)
    if error["type"] == "missing":
        return ArgumentError(f"`{name}` is missing; give it as an option or in a file.")
    message = error["msg"].removeprefix("Value error, ")
    if not name:
        return ArgumentError(f"{message}.")
    return ArgumentError(f"`{name}`: {message[0].lower()}{message[1:]}; got {got!r}.")


def _unknown(kind: type[BaseModel], path: list[str], got: Any) -> UnknownNameError:
    model: Any = kind
    for name in path[:-1]:
        model = model.model_fields[name].annotation
    names = list(model.model_fields)
    # A group that is unknown may hold names that are known: train.steps is steps here.
    path = [*path, *[str(name) for name in got][:1]] if isinstance(got, dict) else path
    return UnknownNameError(
        f"there is no setting '{'.'.join(path)}'{nearest(path[-1], names)}; "
        f"known: {', '.join(sorted(names))}."
    )
