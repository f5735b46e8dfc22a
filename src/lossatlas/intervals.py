"""Confidence intervals of means: few units, unequal units, skewed units."""

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

# Below this number of units the skewness is not known: intervals rest on a shape of the
# distribution (about symmetric) that these units cannot show. docs/studies/coverage
FEW_UNITS = 8
# Means more skewed than this rest on few large units. It is Cochran's rule, n > 25 g^2 for
# units of skewness g. docs/studies/coverage_instruments
MAX_SKEWNESS = 0.2
# How much more often than 1 - level two units of a symmetric unimodal distribution may miss.
_TWO = 1.25


def few_units_note(samples: int, unit: str) -> str:
    """Assumption of an interval from few units; empty if there are enough, or no interval."""
    if not 1 < samples < FEW_UNITS:
        return ""
    return (
        f"its interval comes from {samples} {unit} and assumes a symmetric distribution, which "
        f"fewer than {FEW_UNITS} cannot show; if it is skewed, the interval misses the true "
        "value more often than stated"
    )


def skewed_note(samples: int, unit: str, skewness: float) -> str:
    """Note that few large values dominate an interval, and the number needed; or empty."""
    # Cochran, Sampling Techniques (1977), sec. 2.15.
    if not abs(skewness) > MAX_SKEWNESS:
        return ""
    enough = math.ceil(samples * (skewness / MAX_SKEWNESS) ** 2)
    return (
        f"its interval is dominated by few of {samples:,} {unit} and may miss the true value "
        f"more often than stated; for values as skewed as these, {enough:,} {unit} are enough"
    )


def t_quantile(level: float, count: ArrayLike) -> NDArray[np.float64]:
    """Half-width, in standard errors, of a two-sided interval for a mean of `count` units.

    The quantile of Student's t with `count - 1` degrees of freedom: 12.7 for two units, 2.05
    for thirty, 1.96 for many, at 95 %.

    Args:
        level: confidence, between 0 and 1.
        count: number of units behind the standard error; any shape.

    Returns:
        Like `count`; NaN for fewer than two units (the spread is unknown).

    Examples:
        >>> round(float(t_quantile(0.95, 2)), 2)
        12.71
    """
    degrees = np.asarray(count, dtype=np.float64) - 1
    has_spread = degrees >= 1
    quantile = scipy.special.stdtrit(np.where(has_spread, degrees, 1.0), 0.5 + level / 2)
    return np.asarray(np.where(has_spread, quantile, np.nan))


def interval(
    value: float,
    stderr: float,
    count: float,
    level: float = 0.95,
    *,
    effective: float = math.nan,
    skewness: float = 0.0,
) -> tuple[float, float]:
    """Two-sided confidence interval of a mean, corrected for skewness.

    With q the quantile of Student's t, the ends are value - T stderr, where T solves Hall's
    transformation

        T + a T^2 + a^2 T^3 / 3 + a / 2 = -+q,  a = skewness / 3 * min(1, (m - 2) / 4),

    and m is the effective number of units: with two units skewness cannot be separated from
    noise and is ignored, from six on it counts fully. A side that becomes shorter than q is
    shortened by only half as much, because the skewness is also estimated. Student's t has m -
    1 + 1 / (4 m) degrees of freedom, n - 1 at most.

    With two units q is at least 1 / (1.25 (1 - level)) - 1, 15 at 95 %: mean -+ q stderr misses
    the center of a symmetric unimodal distribution in at most 1 / (1 + q) of samples (uniform
    losses reach it), so 95 % intervals contain the center of any such distribution in at least
    93.75 %. No such bound exists without symmetry (`FEW_UNITS`).

    Args:
        value: the mean.
        stderr: its standard error; NaN if unknown.
        count: number n of units behind the standard error; infinite for a normal interval.
        level: confidence, between 0 and 1.
        effective: effective number of units with unequal weights; NaN means `count`.
        skewness: skewness of the mean, not of the units (which is sqrt(n) times as large); 0
            gives a symmetric interval, a positive value extends it upward.

    Returns:
        (low, high); both NaN if the error is unknown.

    Examples:
        >>> low, high = interval(1.0, 0.1, count=float("inf"))
        >>> round(low, 3), round(high, 3)
        (0.804, 1.196)
        >>> low, high = interval(1.0, 0.1, count=30, skewness=0.3)
        >>> round(low, 3), round(high, 3)
        (0.813, 1.281)

    Source: Hall, J. R. Statist. Soc. B 54 (1992), 221-228 (the transformation); Kish, Survey
        Sampling (1965), sec. 11.7 (effective number). Two units: of X = a U and Y = b V with
        U, V uniform on [-1, 1] (any unimodal law is a mixture of these), |X + Y| > q |X - Y|
        has probability at most 1 / (1 + q), where a = b. Without a shape: Bahadur and Savage,
        Ann. Math. Statist. 27 (1956), 1115-1122.
    """
    units = effective if math.isfinite(effective) else count
    degrees = min(units - 1 + 1 / (4 * units), count - 1) if units >= 1 else math.nan
    a = skewness / 3 * min(1.0, max(0.0, (units - 2) / 4))
    half = float(t_quantile(level, degrees + 1))
    if count == 2:
        half = max(half, 1 / (_TWO * (1 - level)) - 1)
    return value - _end(half, a) * stderr, value - _end(-half, a) * stderr


def _end(q: float, a: float) -> float:
    # Hall's transformation is (1 + a T)^3 / (3 a) up to constants.
    if abs(a) < 1e-7:
        return q
    solution = float(np.cbrt(1 + 3 * a * (q - a / 2)) - 1) / a
    is_shorter = solution < q if q > 0 else solution > q
    return (solution + q) / 2 if is_shorter else solution
