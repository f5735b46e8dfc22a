"""How far the loss along a path rises above the straight line between its ends."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.io.records import record
from lossatlas.result import Estimate
from lossatlas.text import number, with_error

Array = NDArray[np.float64]


@record
@dataclass(frozen=True, eq=False)
class Excess:
    """Loss along a path above the straight line between the losses of its ends.

    Attributes:
        at: positions t from 0 to 1, increasing, shape (points,).
        value: the excess there, shape (points,).
        stderr: its paired standard error, example by example, shape (points,).
        band: half the width, in standard errors, of a band that holds the excess at all points
            together with 95 %; NaN where the error is unknown.
        samples: how many independent units the errors come from.
    """

    at: Array
    value: Array
    stderr: Array
    band: float
    samples: int = 0

    @property
    def top(self) -> int:
        """Index of the largest excess between the ends; what is not finite is largest.

        At the ends the excess is 0 without error, because they carry the straight line.
        """
        height = np.where(np.isnan(self.value), np.inf, self.value)
        height[[0, -1]] = np.where(np.isfinite(self.value[[0, -1]]), -np.inf, np.inf)
        return int(np.argmax(height))

    @property
    def barrier(self) -> Estimate:
        """The largest excess with its error; 0 with an upper bound where none is above 0."""
        top = float(self.value[self.top])
        value = math.inf if math.isnan(top) else max(top, 0.0)
        meaning = "largest loss above the straight line between the losses of the ends"
        why = self._why_no_error(value)
        is_bounded = why is None and value == 0
        if is_bounded:
            meaning = f"{meaning}; its interval holds at all positions with 95 %"
        return Estimate(
            value,
            float(self.stderr[self.top]) if why is None and not is_bounded else math.nan,
            samples=self.samples,
            why_no_error=why,
            bound=self.upper if is_bounded else math.nan,
            ends=(0.0, self.upper) if is_bounded else None,
            name="barrier",
            unit="loss",
            meaning=meaning,
        )

    def _why_no_error(self, barrier: float) -> str | None:
        if not math.isfinite(barrier):
            return "the loss on the path is not finite"
        if not math.isfinite(self.band):
            return "one batch mean has no spread"
        if barrier > 0 or self.upper > 0:
            return None
        if self.has_spread:
            return "none seen: the loss is below that line by more than its error everywhere"
        if self.value.any():
            return "none seen: the loss of no example is above that line at any position"
        return "none seen: up to rounding error the loss of every example lies on that line"

    @property
    def has_spread(self) -> bool:
        """Whether the excess of the examples differs anywhere on the path."""
        return self.band != 0

    @property
    def upper(self) -> float:
        """What no excess at the positions is above, with 95 %; NaN where unknown."""
        highest = float((self.value + self.band * self.stderr)[1:-1].max())
        return max(highest, 0.0)

    @property
    def lower(self) -> float:
        """What the largest excess is above, with 95 %, 0 at least; NaN where unknown."""
        highest = float((self.value - self.band * self.stderr)[1:-1].max())
        return max(highest, 0.0)

    @property
    def is_top_certain(self) -> bool:
        """Whether the largest excess, where it was found, is above 0 with 95 %."""
        return math.isinf(self.barrier.value) or bool(self.barrier.value > self.bound)

    @property
    def barrier_text(self) -> str:
        """The barrier with its error, or what it is at least where that does not reach to 0.

        A lower point of the path with a smaller error can prove a barrier that the highest
        point by itself does not.
        """
        barrier = self.barrier
        if self.is_certain and math.isfinite(barrier.value) and not self.is_top_certain:
            return f"at least {number(self.lower, 2)}"
        return with_error(barrier.value, barrier.stderr)

    @property
    def gap(self) -> float:
        """The largest distance of two positions: what is narrower may be missed."""
        return float(np.diff(self.at).max())

    @property
    def where(self) -> float:
        """Position of the largest excess."""
        return float(self.at[self.top])

    @property
    def bound(self) -> float:
        """What the largest excess may be wrong by, all points at once; NaN where unknown."""
        return self.band * float(self.stderr[self.top])

    @property
    def is_certain(self) -> bool | None:
        """Whether the excess is above 0 somewhere with 95 %; None where errors are unknown."""
        if np.isinf(self.barrier.value):
            return True
        if not math.isfinite(self.band):
            return None
        return bool(np.any(self.value - self.band * self.stderr > 0))
