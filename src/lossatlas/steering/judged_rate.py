"""The verdict on a given learning rate, by a short run at it and the range of good rates."""

import math
from dataclasses import dataclass
from typing import Literal

from lossatlas.intervals import interval
from lossatlas.io.records import record
from lossatlas.result import Estimate
from lossatlas.text import interval_text, number

GAIN = "loss reduction of the best short run"
Verdict = Literal["too high", "lower than needed", "within the range", "not known"]


@record
@dataclass(frozen=True, eq=False)
class JudgedRate:
    """A given learning rate and the short run that peaks at it.

    Attributes:
        lr: the rate.
        loss: after the run; infinite where it diverged.
        gap: that loss minus the lowest of the other short runs, on the same examples.
        gap_error: its standard error; NaN after a divergence.
        units: how many examples (or batches) the error comes from.

    Examples:
        >>> JudgedRate(3.0, math.inf, math.inf, math.nan, 40).verdict(0.1, 0.5, helps=True)
        'too high'
    """

    lr: float
    loss: float
    gap: float
    gap_error: float
    units: int

    @property
    def diverged(self) -> bool:
        """Whether the loss blew up during the run."""
        return not math.isfinite(self.loss)

    def verdict(self, low: float, high: float, *, helps: bool) -> Verdict:
        """Where the rate lies, given the range that probably holds the best one.

        Args:
            low: lower end of the range.
            high: upper end.
            helps: whether any short run lowered the loss beyond its error.

        Returns:
            A divergence is "too high" whatever the range; otherwise the side of the range, or
            "not known" where no rate helps.
        """
        if self.diverged:
            return "too high"
        if not helps:
            return "not known"
        if self.lr > high:
            return "too high"
        return "lower than needed" if self.lr < low else "within the range"

    @property
    def is_told_apart(self) -> bool:
        """Whether the run ended above the best one beyond the error, at 95 %."""
        return self.diverged or self._ends()[0] > 0

    def _ends(self) -> tuple[float, float]:
        return interval(self.gap, self.gap_error, self.units)

    def run_text(self, updates: int) -> str:
        """How the short run ended."""
        run = f"a short run of {updates:,} updates at this rate"
        if self.diverged:
            return f"{run} diverged"
        side = "above" if self.gap >= 0 else "below"
        sign = 1 if self.gap >= 0 else -1
        ends = sorted(sign * end for end in self._ends())
        text = f"{run} ended {number(abs(self.gap), 2)} {side} the best of the others"
        if not all(map(math.isfinite, ends)):
            return text
        return f"{text} (95 % interval {interval_text(*ends)})"

    def estimate(self, unit: str) -> Estimate:
        """The gap to the best run, with its error."""
        why = "the run diverged" if self.diverged else "one unit tells of no error"
        return Estimate(
            self.gap, self.gap_error, samples=self.units, sample_unit=unit,
            name=f"final loss at {number(self.lr, 3)} above the best",
            why_no_error=None if math.isfinite(self.gap_error) else why,
            meaning="short run at the given rate minus the best short run, same examples",
        )  # fmt: skip
