"""Convert input to a float64 array, or raise DataError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError


def as_float_array(argument: str, value: Any, label: str = "") -> NDArray[np.float64]:
    """Convert to a new float64 array."""
    try:
        array = np.asarray(value)
        real = array.astype(np.float64) if array.dtype.kind in "biufO" else None
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"`{argument}`{label} must hold real numbers in rows of equal length ({error})."
        ) from None
    if np.ma.is_masked(value):
        raise DataError(
            f"`{argument}`{label} must hold real numbers; some are masked: fill them, as in "
            "values.filled(nan)."
        )
    if real is None:
        raise DataError(f"`{argument}`{label} must hold real numbers; got {array.dtype}.")
    return real
