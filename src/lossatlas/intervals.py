"""Confidence intervals: Student's t where the spread itself comes from few units."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


def t_quantile(level: float, count: ArrayLike) -> NDArray[np.float64]:
    """Half-width, in standard errors, of a two-sided interval for a mean of `count` units.

    The quantile of Student's t with `count - 1` degrees of freedom: 12.7 for two units, 2.05
    for thirty, 1.96 for many, at 95 %.

    Args:
        level: confidence, between 0 and 1.
        count: units the standard error comes from; any shape.

    Returns:
        Like `count`; NaN where there are fewer than two units (the spread is unknown).

    Examples:
        >>> round(float(t_quantile(0.95, 2)), 2)
        12.71
    """
    degrees = np.asarray(count, dtype=np.float64) - 1
    known = degrees >= 1
    quantile = stdtrit(np.where(known, degrees, 1.0), 0.5 + level / 2)
    return np.asarray(np.where(known, quantile, np.nan))


def interval(
    value: float, stderr: float, count: float, level: float = 0.95
) -> tuple[float, float]:
    """A two-sided confidence interval of a mean.

    Args:
        value: the mean.
        stderr: its standard error; NaN where it is unknown.
        count: units the standard error comes from; infinite for a normal interval.
        level: confidence, between 0 and 1.

    Returns:
        (low, high); both NaN where the error is unknown.

    Examples:
        >>> low, high = interval(1.0, 0.1, count=float("inf"))
        >>> round(low, 3), round(high, 3)
        (0.804, 1.196)
    """
    half = float(t_quantile(level, count)) * stderr
    return value - half, value + half
