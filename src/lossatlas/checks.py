"""Validation at the public door: each check raises one sentence with the remedy in it."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lossatlas.errors import ArgumentError, StructureError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor


def check_same_structure(**pair: "Mapping[str, Tensor]") -> None:
    """Require two mappings to hold the same names with the same shapes.

    Args:
        **pair: exactly two keyword arguments; their names appear in the message.

    Raises:
        StructureError: names or shapes differ; the message names the first difference.
    """
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
    extra = next((name for name in b if name not in a), None)
    if extra is not None:
        raise StructureError(
            f"`{first}` has no entry '{extra}'{nearest(extra, a)}; "
            f"it must hold the same names as `{second}`."
        )


def _is_tensor(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "is_floating_point")


def check_real(point: "Mapping[str, Tensor]") -> None:
    """Require a point of parameter space: real tensors, no counters.

    Args:
        point: name -> tensor.

    Raises:
        StructureError: a tensor holds whole numbers; the message names it.
    """
    for name, value in point.items():
        if not value.is_floating_point():
            raise StructureError(
                f"'{name}' holds whole numbers, but points of parameter space are real: "
                "leave buffers such as counters out, as `Objective.params` does."
            )


def check_one_of(argument: str, value: object, options: Iterable[str]) -> None:
    """Require `value` to be one of the named options.

    Args:
        argument: how the caller calls it.
        value: what came.
        options: what is known.

    Raises:
        UnknownNameError: it is not; the message gives the nearest match and the list.
    """
    known = list(options)
    if not any(isinstance(value, type(option)) and value == option for option in known):
        raise UnknownNameError(
            f"`{argument}` must be one of {', '.join(map(repr, known))}; "
            f"got {value!r}{nearest(value, known)}."
        )


def check_at_least(argument: str, value: object, minimum: int) -> None:
    """Require a whole number of at least `minimum`.

    Args:
        argument: how the caller calls it.
        value: what came.
        minimum: the least that works.

    Raises:
        ArgumentError: not a whole number, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ArgumentError(f"`{argument}` must be a whole number >= {minimum}; got {value!r}.")


def check_positive(argument: str, value: Any) -> None:
    """Require a finite number above zero.

    Args:
        argument: how the caller calls it.
        value: what came.

    Raises:
        ArgumentError: not a number, not finite, or not above zero.
    """
    if not is_number(value) or not math.isfinite(value) or value <= 0:
        raise ArgumentError(f"`{argument}` must be a finite number > 0; got {value!r}.")


def is_number(value: Any) -> bool:
    """Whether `value` is a real number (a bool is not).

    Args:
        value: anything.

    Returns:
        True for int, float and zero-dimensional numpy or torch numbers.
    """
    if isinstance(value, bool | str | bytes):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint for a message: the known name most like the one that came.

    Args:
        name: what came.
        known: what is known.

    Returns:
        " (did you mean 'x'?)", or an empty string where nothing is near.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
