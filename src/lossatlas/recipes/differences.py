"""Paired differences: the same seeds under two recipes."""

import math

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.errors import ArgumentError
from lossatlas.linalg.estimators import mean_of
from lossatlas.result import Estimate

_COARSE = "all differences are the same, so their scatter is not known"


def paired(first: ArrayLike, second: ArrayLike) -> Estimate:
    """How much higher the first is than the second, pair by pair.

    Args:
        first: one number a pair.
        second: likewise, in the same order.

    Returns:
        The mean difference; `.interval()` is Student's t over the pairs, unknown for one pair
        and where all differences are the same but not zero: numbers as coarse as these do not
        tell how they scatter.

    Raises:
        ArgumentError: no pairs, unequal numbers, or numbers that are not finite.

    Examples:
        >>> gap = paired([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 2.0])
        >>> gap.value, verdict(gap)
        (1.25, 'higher')
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ArgumentError(
            f"pairs must be two rows of one length; got {a.shape} and {b.shape}."
        )
    if not np.isfinite(a - b).all():
        raise ArgumentError("pairs must be finite numbers; leave out runs that diverged.")
    difference = mean_of(a - b)
    if difference.stderr == 0 and difference.value:
        return Estimate(difference.value, why_no_error=_COARSE, samples=difference.samples)
    return difference


def verdict(difference: Estimate, level: float = 0.95) -> str:
    """What a paired difference says.

    Args:
        difference: from `paired`.
        level: of the interval.

    Returns:
        "higher", "lower", or "indistinguishable" where the interval holds zero or is unknown.

    Examples:
        >>> verdict(paired([1.0, 2.0], [0.0, 5.0]))
        'indistinguishable'
    """
    lower, upper = difference.interval(level)
    if lower > 0:
        return "higher"
    return "lower" if upper < 0 else "indistinguishable"


def effect_size(difference: Estimate) -> float:
    """The mean of paired differences over their standard deviation (Cohen's d for pairs).

    Args:
        difference: from `paired`.

    Returns:
        A number without unit; NaN for one pair, or where all differences are equal.

    Examples:
        >>> round(effect_size(paired([1.0, 2.0, 4.0], [0.0, 1.0, 1.0])), 2)
        1.44
    """
    deviation = difference.stderr * math.sqrt(difference.samples)
    return difference.value / deviation if deviation > 0 else math.nan
