"""What the losses around a point say without their places: moments and quantiles."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def loss_numbers(losses: Array, center: float) -> dict[str, float]:
    """Statistics of sampled losses; any shuffle of the points leaves them as they are."""
    flat = np.sort(losses[np.isfinite(losses)].ravel())
    lost = {"not finite": 1.0 - flat.size / max(losses.size, 1)}
    if flat.size == 0:
        return dict.fromkeys(_NAMES, np.nan) | lost
    mean, deviation = float(flat.mean()), float(flat.std())
    low, median, high = np.quantile(flat, (0.1, 0.5, 0.9))
    numbers = {
        "mean": mean,
        "deviation": deviation,
        "least": float(flat[0]),
        "greatest": float(flat[-1]),
        "median": float(median),
        "skewness": float(((flat - mean) ** 3).mean() / deviation**3) if deviation else 0.0,
        "spread": float(high - low),
        "rise": mean - center,
        "fall": float(flat[0]) - center,
        "variation": deviation / abs(mean) if mean else 0.0,
        "below": float((flat < center).mean()),
    }
    return numbers | lost


_NAMES = (
    "mean",
    "deviation",
    "least",
    "greatest",
    "median",
    "skewness",
    "spread",
    "rise",
    "fall",
    "variation",
    "below",
)
