"""Cooldown shapes: the learning-rate factor over the progress of a cooldown."""

from collections.abc import Callable
from numbers import Integral
from typing import Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_one_of, check_positive
from lossatlas.errors import ArgumentError

Floats = NDArray[np.float64]

CooldownShape = Literal[
    "linear",
    "cosine",
    "mirror-cosine",
    "square",
    "sqrt",
    "power",
    "lowered-linear",
    "exponential",
    "inverse",
]
SHAPE_NAMES: tuple[CooldownShape, ...] = get_args(CooldownShape)
# Progress s in [0, 1] -> factor g from 1 to 0; the ratio to the peak is m + (1 - m) g.
# "exponential" and "inverse" depend on m otherwise than by mixing, and so are not here.
SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "linear": lambda s: 1 - s,
    "cosine": lambda s: (1 + np.cos(np.pi * s)) / 2,
    "mirror-cosine": lambda s: 2 * (1 - s) - (1 + np.cos(np.pi * s)) / 2,
    "square": lambda s: 1 - s**2,
    "sqrt": lambda s: 1 - np.sqrt(s),
    "power": lambda s: (1 - s) ** 1.5,
    "lowered-linear": lambda s: np.where(s > 0, 0.7 * (1 - s), 1.0),
}


@overload
def cooldown_factor(shape: CooldownShape, progress: float, min_ratio: float = 0.0) -> float: ...


@overload
def cooldown_factor(
    shape: CooldownShape, progress: Floats, min_ratio: float = 0.0
) -> Floats: ...


def cooldown_factor(
    shape: CooldownShape, progress: float | Floats, min_ratio: float = 0.0
) -> float | Floats:
    """Learning-rate factor, relative to the peak, during a cooldown.

    Args:
        shape: one of `SHAPE_NAMES`. "sqrt" is 1 - sqrt(s), "power" (1 - s)^1.5,
            "lowered-linear" drops to 0.7 immediately, "exponential" is min_ratio^s, "inverse"
            decreases so that 1 / rate grows linearly.
        progress: s, any shape, clipped to [0, 1].
        min_ratio: factor at the end, in [0, 1]. Default 0.

    Returns:
        Like `progress`: numbers from 1 down to `min_ratio`.

    Raises:
        UnknownNameError: the shape is unknown.
        ArgumentError: `min_ratio` is 0 for "exponential" or "inverse".

    Source: the shapes compared by Dremov et al., arXiv:2508.01483, and Haegele et al.,
        arXiv:2405.18392; "power" is the optimum under the multi-power law, arXiv:2503.12811.

    Examples:
        >>> cooldown_factor("sqrt", 0.25)
        0.5
    """
    check_one_of("shape", shape, SHAPE_NAMES)
    s = np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0)
    if shape in SHAPES:
        factor = np.asarray(min_ratio + (1 - min_ratio) * SHAPES[shape](s))
    elif min_ratio <= 0:
        raise ArgumentError(
            f"`min_ratio` must be > 0 for the {shape} shape, which never reaches zero; "
            "pass min_ratio=0.1, for example."
        )
    else:
        # As it stands, rounding cannot make it rise.
        inverse = 1 / (1 + s * (1 / min_ratio - 1))
        falling = min_ratio**s if shape == "exponential" else inverse
        factor = np.asarray(falling)
    return factor if factor.ndim else float(factor)


def cooldown_length(argument: str, length: float, steps: int) -> int:
    """Number of updates of a cooldown, from a share up to 1.0 or a number of updates.

    Args:
        argument: name of the argument, for error messages.
        length: a share of `steps` up to 1.0, or a number of updates above 1.
        steps: total number of updates.

    Returns:
        At least 1.

    Raises:
        ArgumentError: the length is not a positive number, or is the integer 1, which is
            ambiguous.

    Examples:
        >>> cooldown_length("decay", 0.1, 50), cooldown_length("decay", 1.0, 50)
        (5, 50)
    """
    check_positive(argument, length)
    if length == 1 and isinstance(length, Integral):
        raise ArgumentError(
            f"`{argument}` = 1 can mean one update or all of them: write {argument}=1.0 for "
            f"all, or a small share for one update, as in {argument}=1e-9."
        )
    return max(round(length * steps), 1) if length <= 1 else round(length)
