"""Checks of what every instrument of this room is given."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from lossatlas.algebra.params import Params
from lossatlas.checks import check_at_least, is_number
from lossatlas.errors import ArgumentError
from lossatlas.objective import Objective

# More probes, points or steps than this are a mistake, not a wish.
_MOST = 10_000_000


def check_objective(objective: Any, params: Params | None = None) -> None:
    """Require an objective, and a point of it where one is given.

    Args:
        objective: what came as model, loss and batches.
        params: a point, or None.

    Raises:
        ArgumentError: not an objective.
        StructureError: names or shapes of `params` differ from those of the objective.
    """
    if not isinstance(objective, Objective):
        raise ArgumentError(
            "`objective` must be an Objective, as in la.Objective(model, loss, batches); got "
            f"{type(objective).__name__}."
        )
    if params is not None:
        objective.split(params)


def check_flag(argument: str, value: Any) -> None:
    """Require True or False.

    Args:
        argument: how the caller calls it.
        value: what came.

    Raises:
        ArgumentError: anything else.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"`{argument}` must be True or False; got {type(value).__name__}.")


def check_count(argument: str, value: Any, least: int) -> None:
    """Require a whole number between `least` and ten million.

    Args:
        argument: how the caller calls it.
        value: what came.
        least: the smallest that works.

    Raises:
        ArgumentError: not a whole number, too small, or beyond reason.
    """
    check_at_least(argument, value, least)
    if value > _MOST:
        raise ArgumentError(f"`{argument}` must be at most {_MOST:,}; got {value!r}.")


def check_not_negative(argument: str, value: Any) -> None:
    """Require a finite number of at least zero.

    Args:
        argument: how the caller calls it.
        value: what came.

    Raises:
        ArgumentError: not a number, not finite, or negative.
    """
    if not is_number(value) or not math.isfinite(value) or value < 0:
        raise ArgumentError(f"`{argument}` must be a finite number >= 0; got {value!r}.")


def check_tensor(argument: str, value: Any) -> None:
    """Require a tensor.

    Args:
        argument: how the caller calls it.
        value: what came.

    Raises:
        ArgumentError: anything else.
    """
    if not isinstance(value, Tensor):
        raise ArgumentError(f"`{argument}` must be a tensor; got {type(value).__name__}.")


def check_text(argument: str, value: Any) -> None:
    """Require a text.

    Args:
        argument: how the caller calls it.
        value: what came.

    Raises:
        ArgumentError: anything else.
    """
    if not isinstance(value, str):
        raise ArgumentError(f"`{argument}` must be a name; got {type(value).__name__}.")
