"""Saddle ratios: how negative a spectrum is, as far as the bounds of its ends tell."""

import math


def saddle_ratio(
    largest: float, smallest: float, largest_bound: float = 0.0, smallest_bound: float = 0.0
) -> float:
    """|smallest| / largest for a negative smallest eigenvalue, 0 where none is negative.

    Args:
        largest: largest eigenvalue.
        smallest: smallest eigenvalue.
        largest_bound: an eigenvalue lies within this of `largest`.
        smallest_bound: an eigenvalue lies within this of `smallest`.

    Returns:
        The ratio; inf where no eigenvalue is positive. NaN where it is not known: a number is
        NaN, or one that decides is smaller than its bound, so that its sign is unknown
        (`saddle_range` then says what is known).

    Examples:
        >>> saddle_ratio(2.0, -1.0)
        0.5
        >>> saddle_ratio(2.0, -0.1, smallest_bound=0.3)
        nan
    """
    if math.isnan(largest + smallest + largest_bound + smallest_bound):
        return math.nan
    if abs(smallest) < smallest_bound:
        return math.nan
    if smallest >= 0:
        return 0.0
    if abs(largest) < largest_bound:
        return math.nan
    return -smallest / largest if largest > 0 else math.inf


def saddle_range(
    largest: float, smallest: float, largest_bound: float, smallest_bound: float
) -> tuple[float, float]:
    """What the bounds of both eigenvalues leave of their saddle ratio.

    Args:
        largest: largest eigenvalue.
        smallest: smallest eigenvalue.
        largest_bound: an eigenvalue lies within this of `largest`.
        smallest_bound: an eigenvalue lies within this of `smallest`.

    Returns:
        (low, high); high is inf where `largest` may not be positive. NaN where a bound is. An
        eigenvalue below `smallest` that the run did not see is not in it.

    Examples:
        >>> saddle_range(2.0, -0.1, 0.0, 0.3)
        (0.0, 0.2)
    """
    if math.isnan(largest + smallest + largest_bound + smallest_bound):
        return math.nan, math.nan
    low = saddle_ratio(largest + largest_bound, smallest + smallest_bound)
    high = saddle_ratio(largest - largest_bound, smallest - smallest_bound)
    return low, high
