"""Cooldown shapes: the share of the rate over the progress of a cooldown."""

import math
from collections.abc import Callable

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share

# Progress s in [0, 1] -> share g from 1 to 0; the rate is end + (1 - end) g.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda s: 1 - s,
    "cosine": lambda s: (1 + math.cos(math.pi * s)) / 2,
    "mirror-cosine": lambda s: 2 * (1 - s) - (1 + math.cos(math.pi * s)) / 2,
    "square": lambda s: 1 - s**2,
    "sqrt": lambda s: 1 - math.sqrt(s),
    "power": lambda s: (1 - s) ** 1.5,
    "lowered-linear": lambda s: 0.7 * (1 - s) if s > 0 else 1.0,
}
# These two depend on the end rate otherwise than by mixing, and so stand outside the table.
SHAPE_NAMES = (*SHAPES, "exponential", "inverse")


def shape_factor(shape: str, progress: float, end: float = 0.0) -> float:
    """The share of the rate at some point of a cooldown.

    Args:
        shape: one of `SHAPE_NAMES`. "sqrt" is 1 - sqrt(s), "power" (1 - s)^1.5,
            "lowered-linear" falls to 0.7 at once, "exponential" is end^s, "inverse" falls so
            that 1 / rate grows linearly.
        progress: s, clipped to [0, 1].
        end: share at the end, in [0, 1). Default 0.

    Returns:
        A number from 1 down to `end`.

    Raises:
        UnknownNameError: an unknown shape.
        ArgumentError: an end out of range, or 0 for "exponential" and "inverse".

    Source: the shapes compared by Dremov et al., arXiv:2508.01483, and Haegele et al.,
        arXiv:2405.18392; "power" is the optimum under the multi-power law, arXiv:2503.12811.

    Examples:
        >>> shape_factor("sqrt", 0.25)
        0.5
    """
    check_shape("shape", shape)
    check_share("end", end)
    s = min(max(progress, 0.0), 1.0)
    if shape not in SHAPES:
        if end == 0:
            raise ArgumentError(f"`end` must be above 0 for shape={shape!r}; got 0.")
        return float(end**s if shape == "exponential" else 1 / (s / end + 1 - s))
    return end + (1 - end) * SHAPES[shape](s)


def check_shape(argument: str, shape: object) -> None:
    """Require a known shape."""
    check_one_of(argument, shape, SHAPE_NAMES)
