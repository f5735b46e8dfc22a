"""What came, as arrays of real numbers, or a sentence that says why it is none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError

Floats = NDArray[np.float64]

EXTREME = 1e100  # losses beyond this, or below its inverse, overflow in a fit
LONGEST = 10**8  # updates: 0.8 GB of rates; more is a count of tokens or a time of day


def real_array(argument: str, value: Any, label: str = "") -> Floats:
    """An own array of floats.

    Args:
        argument: its name, for the message.
        value: numbers, nested as deep as they are.
        label: words for the message that say whose they are.

    Returns:
        The numbers in double precision; values that are not finite are kept.

    Raises:
        DataError: text, dates, complex numbers, or rows of different lengths.
    """
    try:
        found = np.array(value)
        real = found.astype(np.float64) if found.dtype.kind not in "cmM" else None
    except (TypeError, ValueError) as error:
        raise DataError(
            f"`{argument}`{label} must hold real numbers in rows of one length ({error})."
        ) from None
    if real is None:
        raise DataError(f"`{argument}`{label} must hold real numbers; got {found.dtype}.")
    return real


def check_length(argument: str, updates: float, label: str = "") -> None:
    """Require that a schedule of so many updates fits in memory.

    Args:
        argument: whose number it is, for the message.
        updates: how many.
        label: words for the message that say whose they are.

    Raises:
        DataError: more than `LONGEST`.
    """
    if updates > LONGEST:
        raise DataError(
            f"`{argument}`{label} counts {updates:.3g} updates, more than {LONGEST:.0e}: "
            "tokens or a time of day? Steps are updates; give tokens as `tokens`."
        )


def check_scale(argument: str, values: Floats, label: str = "") -> None:
    """Require positive numbers whose squares are numbers too.

    Args:
        argument: whose they are, for the message.
        values: positive numbers.
        label: words for the message.

    Raises:
        DataError: one of them is too large or too small.
    """
    low, high = float(values.min()), float(values.max())
    if low < 1 / EXTREME or high > EXTREME:
        raise DataError(
            f"`{argument}`{label} must lie between {1 / EXTREME:g} and {EXTREME:g}; got "
            f"{low:g} to {high:g}; take another unit."
        )
