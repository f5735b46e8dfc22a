"""The verdict on a given learning rate, by paired short runs and the range of the best rate."""

import math
from dataclasses import dataclass
from typing import Literal

from lossatlas.intervals import interval
from lossatlas.io.records import record
from lossatlas.result import Estimate
from lossatlas.text import interval_text, number

GAIN = "loss reduction of the best short run"
Verdict = Literal[
    "too high", "higher than needed", "lower than needed", "indistinguishable", "not known"
]
NO_ERROR = "a single unit has no standard error"
# A rise by this share of the loss is seen without a standard error.
_WIDE = 0.5
# A rate is as good as the best where its loss is at most this share higher; this decides alone
# where there is no standard error.
_TOLERANCE = 0.03


def is_as_good(gap: float, error: float, units: int, best_loss: float) -> bool:
    """Whether a loss is within 3 % of the best, or its gap within the error at 95 %."""
    return gap <= _TOLERANCE * abs(best_loss) or interval(gap, error, units)[0] <= 0


@record
@dataclass(frozen=True, eq=False)
class JudgedRate:
    """A given learning rate, with the short runs that judge it.

    Attributes:
        lr: the rate.
        loss: after a run that peaks at it; infinite where it diverged.
        start: the loss before that run, on the same examples.
        peak: the peak rate that is compared: `lr`, moved toward `reference` as far as another
            length of the training allows.
        reference: the peak rate of short runs that the suggestion comes from.
        reference_loss: after the run at it.
        gap: loss after the run at `peak` minus that, on the same examples; infinite where the
            run at `peak` diverged.
        gap_error: its standard error; NaN after a divergence and of a single unit.
        units: how many examples (or batches) the error comes from.

    Examples:
        >>> run = JudgedRate(3.0, 0.9, 2.3, 3.0, 0.2, 0.1, gap=0.8, gap_error=0.1, units=40)
        >>> run.is_worse
        True
    """

    lr: float
    loss: float
    start: float
    peak: float
    reference: float
    reference_loss: float
    gap: float
    gap_error: float
    units: int

    @property
    def diverged(self) -> bool:
        """Whether the loss blew up during the run at the rate itself."""
        return not math.isfinite(self.loss)

    @property
    def is_compared(self) -> bool:
        """Whether short runs can tell the rate from the suggested one at all."""
        return self.peak != self.reference

    @property
    def has_error(self) -> bool:
        """Whether the gap has a standard error; a divergence needs none."""
        return math.isinf(self.gap) or math.isfinite(self.gap_error)

    @property
    def is_worse(self) -> bool:
        """Whether the run ended above that at the reference, beyond 3 % and its error."""
        return (
            self.is_compared
            and self.has_error
            and not is_as_good(self.gap, self.gap_error, self.units, self.reference_loss)
        )

    @property
    def rises_widely(self) -> bool:
        """Whether the run ended so far above its start that no standard error is needed."""
        return self.loss - self.start > _WIDE * abs(self.start)

    def run_text(self, updates: int, horizon: int) -> str:
        """What the paired short runs show."""
        if not self.is_compared:
            if horizon == updates:
                return "it is the suggested one"
            return f"runs of {updates:,} updates cannot tell which is better for {horizon:,}"
        run = f"a short run of {updates:,} updates at "
        run += "this rate" if self.peak == self.lr else f"{number(self.peak, 3)}"
        if self.peak != self.lr:
            run += f", the closest equivalent of this rate in {horizon:,} updates,"
        if not math.isfinite(self.gap):
            return f"{run} diverged"
        return (
            f"{run} ended {self._gap_text()} one at {number(self.reference, 3)}, the best peak "
            f"rate for runs of this length{self._interval_text()}"
        )

    def _gap_text(self) -> str:
        return f"{number(abs(self.gap), 2)} {'above' if self.gap >= 0 else 'below'}"

    def _interval_text(self) -> str:
        sign = 1 if self.gap >= 0 else -1
        ends = sorted(sign * e for e in interval(self.gap, self.gap_error, self.units))
        if not all(map(math.isfinite, ends)):
            return ""
        return f" (95 % interval {interval_text(*ends)})"

    def estimate(self, unit: str) -> Estimate:
        """The gap to the reference run, with its error."""
        why = NO_ERROR
        if not math.isfinite(self.gap):
            why = "the run diverged"
        elif not self.is_compared:
            why = "short runs cannot tell the two apart"
        is_known = self.is_compared and math.isfinite(self.gap_error)
        rates = f"peak rate {number(self.peak, 3)} minus {number(self.reference, 3)}"
        return Estimate(
            self.gap if self.is_compared else math.nan,
            self.gap_error if is_known else math.nan,
            samples=self.units, sample_unit=unit,
            name=f"final loss at {number(self.lr, 3)} above the best run's",
            why_no_error=None if is_known else why,
            meaning=f"short runs, {rates}, same examples",
        )  # fmt: skip
