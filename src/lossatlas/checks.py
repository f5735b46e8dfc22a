"""Validation of arguments: each check raises a one-sentence error that states the remedy."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.errors import ArgumentError, StructureError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor


def check_same_structure(**pair: "Mapping[str, Tensor]") -> None:
    """Require two mappings to have the same names and shapes."""
    (first, a), (second, b) = pair.items()
    for argument, given in pair.items():
        if not isinstance(given, Mapping) or not all(map(_is_tensor, given.values())):
            raise StructureError(
                f"`{argument}` must map names to tensors, as `Objective.params` does; "
                f"got {type(given).__name__}."
            )
    for name, value in a.items():
        if name not in b:
            raise StructureError(
                f"`{second}` has no entry '{name}'{nearest(name, b)}; "
                f"it must hold the same names as `{first}`."
            )
        if value.shape != b[name].shape:
            raise StructureError(
                f"'{name}' has shape {tuple(value.shape)} in `{first}` but "
                f"{tuple(b[name].shape)} in `{second}`; the two must be points of one model."
            )
        if _number_kind(value) != _number_kind(b[name]):
            raise StructureError(
                f"'{name}' holds {value.dtype} in `{first}` but {b[name].dtype} in `{second}`: "
                "codes of quantized or other numbers are not weights; dequantize them first."
            )
    extra = next((name for name in b if name not in a), None)
    if extra is not None:
        raise StructureError(
            f"`{first}` has no entry '{extra}'{nearest(extra, a)}; "
            f"it must hold the same names as `{second}`."
        )


def _number_kind(value: "Tensor") -> str:
    if not value.is_floating_point():
        return "complex" if value.is_complex() else "whole"
    # Eight bits are codes that need a scale; torch can not even add them.
    return "real" if value.element_size() > 1 else "code"


def _is_tensor(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "is_floating_point")


def check_real(point: "Mapping[str, Tensor]") -> None:
    """Require a point of parameter space: real tensors, no counters."""
    for name, value in point.items():
        if not value.is_floating_point():
            raise StructureError(
                f"'{name}' holds {value.dtype}, but points of parameter space are real: pass "
                "`model.state_dict()` or `Objective.params`, with equal integer buffers."
            )


def check_one_of(argument: str, value: object, options: Iterable[str]) -> None:
    """Require `value` to be one of the named options."""
    known = list(options)
    if not any(isinstance(value, type(option)) and value == option for option in known):
        raise UnknownNameError(
            f"`{argument}` must be one of {', '.join(map(repr, known))}; "
            f"got {value!r}{nearest(value, known)}."
        )


def check_at_least(argument: str, value: object, minimum: int) -> None:
    """Require an integer >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ArgumentError(f"`{argument}` must be a whole number >= {minimum}; got {value!r}.")


def check_flag(argument: str, value: object) -> None:
    """Require True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"`{argument}` must be True or False; got {shown(value)}.")


def check_positive(argument: str, value: Any) -> None:
    """Require a finite number above zero."""
    if not is_number(value) or not math.isfinite(value) or value <= 0:
        raise ArgumentError(f"`{argument}` must be a finite number > 0; got {value!r}.")


def check_number(argument: str, value: Any, minimum: float = -math.inf) -> None:
    """Require a finite number of at least `minimum`."""
    if not is_number(value) or not math.isfinite(value) or value < minimum:
        bound = f" >= {minimum:g}" if math.isfinite(minimum) else ""
        raise ArgumentError(f"`{argument}` must be a finite number{bound}; got {value!r}.")


def check_fraction(argument: str, value: Any) -> None:
    """Require a number strictly between 0 and 1, such as a confidence level."""
    if not is_number(value) or not 0 < value < 1:
        raise ArgumentError(f"`{argument}` must lie between 0 and 1; got {value!r}.")


def check_path(argument: str, value: object) -> Path:
    """Require the path of a file or folder."""
    if isinstance(value, str | PathLike):
        text = fspath(value)
        if isinstance(text, str) and text and "\0" not in text:
            return Path(text)
    raise ArgumentError(f"`{argument}` must be the path of a file or folder; got {value!r}.")


def check_seed(argument: str, value: object) -> None:
    """Require a seed: an integer >= 0 of at most 64 bits."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 <= value < 2**64:  # type: ignore[operator]
        raise ArgumentError(
            f"`{argument}` must be a whole number from 0 to 2^64 - 1; got {value!r}."
        )


def check_text(argument: str, value: object, *, optional: bool = False) -> None:
    """Require a string."""
    if not isinstance(value, str) and not (optional and value is None):
        wanted = "a string or None" if optional else "a string"
        raise ArgumentError(f"`{argument}` must be {wanted}; got {shown(value)}.")


def check_callable(argument: str, value: object, *, optional: bool = False) -> None:
    """Require a callable."""
    if not callable(value) and not (optional and value is None):
        raise ArgumentError(f"`{argument}` must be callable; got {shown(value)}.")


def check_kind(argument: str, value: object, kind: type | tuple[type, ...], make: str) -> None:
    """Require an instance of a class."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        raise ArgumentError(f"`{argument}` must be a {names}; got {shown(value)}: {make}.")


def check_list(argument: str, value: object, what: str) -> None:
    """Require a list or tuple, which has a length and can be iterated twice."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ArgumentError(f"`{argument}` must be a list of {what}; got {shown(value)}.")


def check_tensors(argument: str, values: "Iterable[Tensor]") -> "list[Tensor]":
    """Require tensors, such as those of `model.parameters()`, and return them as a list."""
    listed = list(values) if isinstance(values, Iterable) else [values]
    odd = [value for value in listed if not _is_tensor(value)]
    if odd:
        raise ArgumentError(
            f"`{argument}` must hold tensors, as `model.parameters()` does; "
            f"got {shown(odd[0])}."
        )
    return listed


def shown(value: object) -> str:
    """Representation of a value, short enough for a sentence."""
    plain = value is None or isinstance(value, bool | int | float | complex | str | bytes)
    text = repr(value) if plain else ""
    return text if plain and len(text) <= 60 else f"an object of type {type(value).__name__}"


def is_number(value: Any) -> bool:
    """Whether `value` is a real number (a bool is not)."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False
    return True


def nearest(name: object, known: Iterable[str]) -> str:
    """Hint for a message: the known name closest to the given one."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
