"""Logarithmic axes: where they end, and few round numbers on them."""

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.text import number


def log_limits(values: ArrayLike) -> tuple[float, float]:
    """Ends of an axis of positive numbers that may span one decade or ten."""
    positive = np.asarray(values, dtype=np.float64).ravel()
    positive = positive[np.isfinite(positive) & (positive > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.1, 10.0)
    margin = 10.0 ** max(0.05 * np.log10(high / low), 0.06)
    return low / margin, high * margin


def log_ticks(limits: tuple[float, float], most: int = 8) -> tuple[list[float], list[str]]:
    """Round numbers between two limits, about `most` where they lie decades apart."""
    low, high = np.log10(limits)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    wide = high - low
    leading = (1, 1.5, 2, 3, 4, 5, 7) if wide < 1 else (1, 2, 5) if wide < 3 else (1,)
    step = max(1, round(wide / most))
    places = (m * 10.0**k for k in decades if k % step == 0 or wide < 3 for m in leading)
    ticks = [place for place in places if limits[0] <= place <= limits[1]]
    return ticks, [number(k, 2) if 1e-4 <= k < 1e5 else f"{k:.0e}" for k in ticks]
