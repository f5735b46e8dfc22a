"""How much of a label is the initialization's own, and how much the order of the data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """The intraclass correlation of labels, and what it leaves to be predicted.

    Attributes:
        single: share of the variance of one training that is the candidates' own, ICC(1,1).
        mean: the same for the mean over the orders, ICC(1,k).
        lower: lower end of the 95 % interval of `mean`; it may be below zero.
        upper: its upper end.
        candidates: how many.
        orders: how many.
    """

    single: float
    mean: float
    lower: float
    upper: float
    candidates: int
    orders: int

    @property
    def ceiling(self) -> float:
        """The highest correlation that a perfect predictor can reach: sqrt(max(mean, 0))."""
        return float(np.sqrt(max(self.mean, 0.0)))


def reliability(labels: Array, level: float = 0.95) -> Reliability:
    """One-way random-effects intraclass correlation, with its exact interval under normality.

    Args:
        labels: finite, shape (candidates, orders).
        level: of the interval.

    Returns:
        The correlation. Labels that do not vary at all have none: NaN.

    Raises:
        DataError: fewer than two orders or three candidates.

    Source: Shrout and Fleiss, Psychological Bulletin 86 (1979) 420, cases ICC(1,1) and
    ICC(1,k).

    Examples:
        >>> same = np.arange(5.0)[:, None].repeat(3, axis=1)
        >>> reliability(same).mean
        1.0
    """
    count, orders = labels.shape
    if count < 3 or orders < 2:
        raise DataError(
            "the reliability of labels needs 3 candidates whose training stayed finite and 2 "
            f"data orders; got {count} and {orders}: label more, or give more orders."
        )
    means = labels.mean(axis=1)
    between = orders * float(means.var(ddof=1))
    within = float(((labels - means[:, None]) ** 2).sum()) / (count * (orders - 1))
    if between == 0 and within == 0:
        return Reliability(np.nan, np.nan, np.nan, np.nan, count, orders)
    ratio = np.inf if within == 0 else between / within
    freedom = (count - 1, count * (orders - 1))
    tail = 0.5 + level / 2
    low = ratio / stats.f.ppf(tail, *freedom)
    high = ratio * stats.f.ppf(tail, *freedom[::-1])
    single = (between - within) / (between + (orders - 1) * within)
    mean, lower, upper = (float(1 - 1 / r) if r > 0 else -np.inf for r in (ratio, low, high))
    return Reliability(single, mean, lower, upper, count, orders)
