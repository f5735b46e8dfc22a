"""Paired statistics: the same seeds under two recipes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.errors import ArgumentError
from lossatlas.linalg.estimators import quantile


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences with its interval.

    Attributes:
        mean: of the differences.
        lower: of the 95 % interval (Student's t).
        upper: likewise.
        effect: mean over standard deviation; NaN where all differences are equal.
        pairs: how many.
    """

    mean: float
    lower: float
    upper: float
    effect: float
    pairs: int

    @property
    def verdict(self) -> str:
        """The words: higher, lower, or not told apart where the interval holds zero."""
        if self.lower > 0:
            return "higher"
        return "lower" if self.upper < 0 else "not told apart"


def paired(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """How much higher the first is than the second, pair by pair.

    Args:
        first: one number a pair.
        second: likewise, in the same order.
        level: of the interval. Default 0.95.

    Returns:
        The mean difference with its interval; without bounds for one pair.

    Raises:
        ArgumentError: no pairs, unequal numbers, or numbers that are not finite.

    Examples:
        >>> paired([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 2.0]).verdict
        'higher'
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ArgumentError(
            f"pairs must be two rows of one length; got {a.shape} and {b.shape}."
        )
    differences = a - b
    if not np.isfinite(differences).all():
        raise ArgumentError("pairs must be finite numbers; leave out runs that diverged.")
    mean, count = float(differences.mean()), len(differences)
    if count == 1:
        return Difference(mean, math.nan, math.nan, math.nan, 1)
    deviation = float(differences.std(ddof=1))
    reach = quantile(level, count) * deviation / math.sqrt(count)
    effect = mean / deviation if deviation > 0 else math.nan
    return Difference(mean, mean - reach, mean + reach, effect, count)
