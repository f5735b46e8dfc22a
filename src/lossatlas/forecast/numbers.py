"""Limits of numbers: schedules that do not fit in memory, losses whose squares overflow."""

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError

Floats = NDArray[np.float64]

EXTREME = 1e100  # losses beyond this, or below its inverse, overflow in a fit
LONGEST = 10**8  # updates: 0.8 GB of rates; more is a count of tokens or a time of day


def check_length(argument: str, updates: float, label: str = "") -> None:
    """Require that a schedule of so many updates fits in memory."""
    if updates > LONGEST:
        # A whole number in Python can be longer than any float.
        shown = f"{updates:.3g}" if updates < 1e300 else "1e+300 or more"
        raise DataError(
            f"`{argument}`{label} counts {shown} updates, more than {LONGEST:.0e}: "
            "tokens or a time of day? Steps are updates; give tokens as `tokens`."
        )


def check_scale(argument: str, values: Floats, label: str = "") -> None:
    """Require positive numbers whose squares are numbers too."""
    low, high = float(values.min()), float(values.max())
    if low < 1 / EXTREME or high > EXTREME:
        raise DataError(
            f"`{argument}`{label} must lie between {1 / EXTREME:g} and {EXTREME:g}; got "
            f"{low:g} to {high:g}; take another unit."
        )
