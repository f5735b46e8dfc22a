"""Robust scale estimates, insensitive to outliers and trends."""

import math

import numpy as np
from numpy.typing import NDArray

# A median absolute deviation in standard deviations of a normal law.
GAUSS = 1.4826


def neighbor_noise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of noise, from the median difference of neighbors.

    Args:
        values: (..., n) along the last axis.

    Returns:
        Shape (...,).
    """
    gaps = np.abs(np.diff(values, axis=-1))
    return np.asarray(GAUSS * np.median(gaps, axis=-1) / math.sqrt(2))
