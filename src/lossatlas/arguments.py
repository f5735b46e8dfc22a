"""Compare the arguments of public functions with their annotations.

A wrong argument often fails deep inside with an error that does not name it. In that case
`public` compares the arguments with their annotations and names the first one that does not
match, or that has no usable numbers (NaN, complex, masked, empty). Other errors, and errors
that passed through user code, are not changed. Numbers are checked before the call, because
True for a number and 0.5 for an integer would not raise an error.
"""

import collections.abc
import functools
import inspect
import math
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np

from lossatlas.checks import shown
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.tracebacks import reason_of, user_frame

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_NUMBERS = (int, float)
# Elements of a container that are compared: an error in a later one is rare and slow to find.
_MOST = 1000
# Beyond it a size does not fit into memory; beyond 64 bits no number is one of torch's.
_LARGE, _HUGE = 2**31, 2**63
# What numpy and torch say of sizes that no memory holds.
_NO_MEMORY = re.compile("memory|maximum allowed dimension|array is too big", re.IGNORECASE)
# Faults of code or of the installation, whatever the arguments are.
_FAULTS = (AssertionError, ImportError, NameError, RecursionError, Warning)


def public(target: T) -> T:
    """Name the invalid argument when a public function or class fails because of it."""
    if isinstance(target, type):
        start = target.__dict__.get("__init__")
        if inspect.isfunction(start) and not getattr(target, "_is_protocol", False):
            target.__init__ = _guarded(start, target.__name__)  # type: ignore[misc]
        return target
    return typing.cast(T, _guarded(typing.cast(Callable[..., Any], target), ""))


def guard_exports(room: str) -> None:
    """Apply `public` to all exports of a module, there and where they are defined."""
    module = sys.modules[room]
    # What an editor or a notebook completes are the exports, not the modules behind them.
    vars(module)["__dir__"] = lambda: sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        ours = str(getattr(value, "__module__", "")).startswith("lossatlas.")
        if not ours or not (inspect.isfunction(value) or isinstance(value, type)):
            continue
        start = vars(value).get("__init__") if isinstance(value, type) else value
        if hasattr(start, "__guarded__"):
            continue
        guarded = public(value)
        setattr(module, name, guarded)
        home = sys.modules[value.__module__]
        if getattr(home, name, None) is value:
            setattr(home, name, guarded)


def _guarded(function: Callable[..., Any], owner: str) -> Callable[..., Any]:
    signature = inspect.signature(function)
    arguments = _Arguments(function, signature)
    # A context manager fails when it is entered, which nobody sees from here.
    inner = inspect.unwrap(function)
    later, file = inspect.isgeneratorfunction(inner), inner.__code__.co_filename

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments.refuse_odd_numbers(args, kwargs)
        if later and (named := arguments.misfit(args, kwargs)) is not None:
            raise named
        try:
            return function(*args, **kwargs)
        except AtlasError:
            raise
        # Whatever a wrong argument leads to; it goes on as it is where no argument is wrong.
        except Exception as error:
            if isinstance(error, _FAULTS) or user_frame(error, but=file) is not None:
                raise
            named = arguments.blamed(args, kwargs, error)
            if named is None:
                raise
            raise named from error

    call.__guarded__ = owner or function.__qualname__  # type: ignore[attr-defined]
    return call


class _Lenient(type):
    def __instancecheck__(cls, value: object) -> bool:
        return True

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return Any


class _Unresolved(metaclass=_Lenient):
    """Stands for a name that only type checkers import; any value fits."""


class _Arguments:
    """The annotations of a function, resolved at its first call."""

    def __init__(self, function: Callable[..., Any], signature: inspect.Signature) -> None:
        self._function, self._signature = function, signature
        self._names = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        ]

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        missing: dict[str, Any] = {}
        while True:
            try:
                return typing.get_type_hints(self._function, localns=missing)
            except NameError as error:
                if not error.name or error.name in missing:
                    return {}
                missing[error.name] = _Unresolved
            except (TypeError, AttributeError):
                return {}

    @functools.cached_property
    def _numbers(self) -> dict[str, Any]:
        # Parameters that take one number, or None.
        return {
            name: kinds - {type(None)}
            for name, hint in self.hints.items()
            if (kinds := _plain_kinds(hint)) and kinds & set(_NUMBERS) and bool not in kinds
        }

    def refuse_odd_numbers(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # True for a number, and what is no whole number for one.
        numbers = self._numbers
        if not numbers:
            return
        for name, value in (*zip(self._names, args, strict=False), *kwargs.items()):
            kinds = numbers.get(name)
            if kinds is None:
                continue
            if isinstance(value, bool | np.bool_):
                raise ArgumentError(f"`{name}` must be {_words(kinds)}; got {value!r}.")
            whole = isinstance(value, int) or hasattr(value, "__index__")
            if float not in kinds and value is not None and not whole and str not in kinds:
                raise ArgumentError(f"`{name}` must be {_words(kinds)}; got {value!r}.")

    def blamed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> ArgumentError | None:
        named = self.misfit(args, kwargs)
        if named is not None:
            return named
        reason = reason_of(error)
        no_memory = isinstance(error, MemoryError) or _NO_MEMORY.search(reason) is not None
        for name, value in self._pairs(args, kwargs):
            if name in {"self", "seed"} or self._is_default(name, value):
                continue
            what = _too_large(value, no_memory=no_memory)
            hint = self.hints.get(name, Any)
            # Memory that does not suffice is no fault of NaN.
            what = what or ("" if no_memory else _unusable(value))
            if what := what or _no_function(value, hint, error):
                return ArgumentError(
                    f"`{name}` cannot be used: {what} ({reason}); pass another value."
                )
        return None

    def _is_default(self, name: str, value: Any) -> bool:
        parameter = self._signature.parameters.get(name)
        default = parameter.default if parameter is not None else inspect.Parameter.empty
        return value is default or (type(value) is type(default) is tuple and not value)

    def misfit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ArgumentError | None:
        # The error that names the first argument that does not fit its annotation.
        for name, value in self._pairs(args, kwargs):
            hint = self.hints.get(name, Any)
            if not fits(value, hint):
                return ArgumentError(f"`{name}` must be {described(hint)}; got {shown(value)}.")
        return None

    def _pairs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError:
            # Too many, too few, or unknown ones: Python's own error says it.
            return []
        return list(_spread(self._signature, given))


def _spread(
    signature: inspect.Signature, given: Mapping[str, Any]
) -> Iterable[tuple[str, Any]]:
    for name, value in given.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, each) for each in value)
        elif kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, value
        else:
            yield from value.items()


def _plain_kinds(hint: Any) -> set[Any]:
    # The kinds of a hint that consists of plain kinds alone; empty for any other.
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    plain = {int, float, str, bool, type(None)}
    return set(parts) if all(part in plain for part in parts) else set()


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in {typing.Union, types.UnionType}


def fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911 - one line per kind of hint
    """Whether a value matches an annotation, as far as that can be checked."""
    if hint is Any or isinstance(hint, TypeVar | str):
        return True
    if _is_union(hint):
        parts = typing.get_args(hint)
        if any("_SupportsArray" in str(part) for part in parts):
            others = [p for p in parts if isinstance(p, type) and not _is_array_part(p)]
            return _is_numbers(value) or any(fits(value, part) for part in others)
        return any(fits(value, part) for part in parts)
    if hint is None or hint is type(None):
        return value is None
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is not None:
        return _fits_generic(value, origin, typing.get_args(hint))
    return _fits_class(value, hint) if isinstance(hint, type) else True


def _is_array_part(kind: type) -> bool:
    return kind in {str, bytes, complex} or kind.__name__.startswith("_")


def _fits_class(value: Any, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind in _NUMBERS:
        return _is_number(value, kind)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in _members(kind))
    if kind in {object, type}:
        return True
    return isinstance(value, kind)


def _fits_generic(  # noqa: PLR0911 - one line per kind of container
    value: Any, origin: Any, parts: tuple[Any, ...]
) -> bool:
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and value.ndim > 0
    if origin is collections.abc.Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, origin):
            return False
        items = list(value.items())[:_MOST]
        return all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in items)
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        row = _is_row(value) and len(value) == len(parts)
        return row and all(map(fits, value, parts))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _is_row(value) and all(fits(each, parts[0]) for each in list(value)[:_MOST])
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        return _is_walkable(value) and (
            not isinstance(value, collections.abc.Collection)
            or all(fits(each, parts[0]) for each in list(value)[:_MOST])
        )
    return isinstance(value, origin) if isinstance(origin, type) else True


def _is_walkable(value: Any) -> bool:
    if isinstance(value, type) or getattr(value, "closed", False):
        return False
    return hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0


def _is_row(value: Any) -> bool:
    # Arrays and tensors stand in for sequences everywhere.
    if isinstance(value, np.ndarray) or _is_tensor(value):
        return value.ndim > 0 and not _unusable(value)
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool | np.bool_ | str | bytes | complex | np.ndarray) or _is_tensor(
        value
    ):
        return False
    if kind is int:
        return hasattr(value, "__index__") and not isinstance(value, np.ndarray)
    try:
        float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False
    return True


def _is_numbers(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "biuf" and not np.ma.is_masked(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


def _members(kind: type) -> set[str]:
    own = {n for base in kind.__mro__ for n in getattr(base, "__annotations__", {})}
    own |= {n for base in kind.__mro__ if base is not object for n in vars(base)}
    return {name for name in own if not name.startswith("_")}


def _unusable(value: Any) -> str:
    # Why a value of the right type has no numbers or names to use; empty where it has. Zero
    # and negative numbers are ordinary: where they are not, a check says so before the call.
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not finite"
    if _is_tensor(value):
        return _unusable_tensor(value)
    if isinstance(value, np.ndarray):
        return _unusable_array(value)
    if isinstance(value, str | PathLike):
        text = str(value)
        return "an empty text" if not text else "a text with a null byte" * ("\0" in text)
    if isinstance(value, list | tuple | dict | set | range) and not value:
        return "it is empty"
    return ""


def _no_function(value: Any, hint: Any, error: Exception) -> str:
    # A class or a module that is called as a function: it has no code of the user to point at.
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    if not any(map(_is_function_hint, parts)):
        return ""
    if isinstance(value, type):
        return f"it is the class {value.__name__}"
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.nn.Module):
        return ""
    files = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    is_called = any(file == torch.nn.modules.module.__file__ for file in files)
    return f"it is the module {type(value).__name__}" if is_called else ""


def _is_function_hint(hint: Any) -> bool:
    is_protocol = getattr(hint, "_is_protocol", False) and "__call__" in vars(hint)
    return is_protocol or typing.get_origin(hint) is collections.abc.Callable


def _too_large(value: Any, *, no_memory: bool) -> str:
    large = isinstance(value, int) and value > (_LARGE if no_memory else _HUGE)
    return f"{value} is too large" if large else ""


def _is_tensor(value: Any) -> "TypeGuard[Tensor]":
    # Rooms that know no network are to load without torch.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _unusable_tensor(value: "Tensor") -> str:
    if value.device.type == "meta":
        return "a tensor on the meta device holds no numbers"
    if value.is_complex():
        return "its numbers are complex"
    if value.numel() == 0:
        return "it is empty"
    return "" if bool(value.isfinite().all()) else "it holds NaN or infinite numbers"


def _unusable_array(value: np.ndarray) -> str:
    if np.ma.is_masked(value):
        return "some of its numbers are masked"
    if value.dtype.kind not in "biuf":
        return f"its type is {value.dtype}"
    if value.size == 0:
        return "it is empty"
    return "" if np.isfinite(value).all() else "it holds NaN or infinite numbers"


def described(hint: Any) -> str:  # noqa: PLR0911 - one line per kind of hint
    """Describe an annotation in words."""
    if _is_union(hint):
        parts = typing.get_args(hint)
        if any("_SupportsArray" in str(part) for part in parts):
            named = [p.__name__ for p in parts if isinstance(p, type) and _is_ours(p)]
            return " or ".join(["an array of real numbers", *named])
        words = list(dict.fromkeys(map(described, parts)))
        return " or ".join(words)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if origin is np.ndarray:
        return "an array of real numbers"
    if origin is collections.abc.Callable:
        return "callable"
    if origin is not None:
        return _described_generic(origin, typing.get_args(hint))
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', str(hint))}"


def _described_generic(origin: Any, parts: tuple[Any, ...]) -> str:
    inner = described(parts[0]) if parts and parts[0] is not Ellipsis else "anything"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of names to values, each {described(parts[1])}"
    return f"a sequence, each item {inner}"


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("lossatlas")


def _words(kinds: Iterable[Any]) -> str:
    order = [int, float, str, type(None)]
    return " or ".join(_WORDS[kind] for kind in order if kind in set(kinds))


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "True or False",
    type(None): "None",
    dict: "a dictionary",
}
