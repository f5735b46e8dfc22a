"""What a loss curve does at its end: falls, rises, or stays flat within its noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve
from lossatlas.intervals import t_quantile
from lossatlas.text import with_error

Floats = NDArray[np.float64]

BLOCKS = 8  # medians of a part that show its trend
PARTS = 1 / 3  # the last so much of the updates shows what the loss does now
CERTAIN = 0.95  # confidence from which on a change is one
# A loss is called flat where its change is no larger than this many standard errors, and these
# are no larger than this share of it.
HIDDEN, SURE = 1.5, 0.05
PLACES = 24  # where a flat part may begin


@dataclass(frozen=True)
class Recent:
    """What the loss does at the end of a log.

    Attributes:
        first: the update where the last third of the run begins.
        last: the last update.
        change: by what share the loss changes over that third; negative where it falls.
        stderr: standard error of the change.
        level: the typical loss of its last quarter.
        scatter: standard deviation of single logged losses around their trend, as a share.
        kind: "falls", "rises", "flat", "unclear" where noise hides which of these, or "short"
            where too few losses were logged.
        flat_since: the update from which on the loss is flat; 0 where it is not.
        lowest: the update around which the loss was lowest.
    """

    first: int
    last: int
    change: float
    stderr: float
    level: float
    scatter: float
    kind: str
    flat_since: int
    lowest: int

    def __str__(self) -> str:
        """The clause that says it, without a full stop."""
        over = f"over the last third of the run (updates {self.first:,} to {self.last:,})"
        size = with_error(100 * abs(self.change), 100 * self.stderr)
        signed = with_error(100 * self.change, 100 * self.stderr)
        if self.kind == "short":
            return "too few losses are logged to tell a trend from noise"
        if self.kind == "flat":
            return (
                f"the loss has been flat within its noise since about update "
                f"{self.flat_since:,}; {over} it changed by ({signed}) %"
            )
        if self.kind == "unclear":
            return (
                f"{over} the loss changed by ({signed}) %: its noise hides whether it still "
                "falls"
            )
        turn = f"; it was lowest around update {self.lowest:,}" if self.kind == "rises" else ""
        verb = "rose" if self.kind == "rises" else "fell"
        return f"{over} the loss {verb} by ({size}) %{turn}"


def recent(curve: Curve) -> Recent:
    """Describe the end of a run."""
    step, log = curve.step, np.log(curve.loss)
    third = step > (1 - PARTS) * step[-1]
    first, last = int(step[third][0]), int(step[-1])
    level = float(np.exp(np.median(log[step > 0.75 * last])))
    if third.sum() < 2 * BLOCKS:
        return Recent(first, last, np.nan, np.nan, level, np.nan, "short", 0, 0)
    change, stderr = _trend(log[third])
    scatter = float(np.std(np.diff(log[third])) / np.sqrt(2))
    kind = _kind(change, stderr)
    since = _flat_since(step, log) if kind == "flat" else 0
    # A log that begins late may have few losses, all of them in its last third.
    parts = min(4 * BLOCKS, log.size)
    medians = [np.median(part) for part in np.array_split(log, parts)]
    at = [int(part[part.size // 2]) for part in np.array_split(step, parts)]
    return Recent(
        first, last, float(np.expm1(change)), stderr, level, scatter, kind, since,
        at[int(np.argmin(medians))],
    )  # fmt: skip


def _kind(change: float, stderr: float) -> str:
    if abs(change) > float(t_quantile(CERTAIN, BLOCKS - 1)) * stderr:
        return "falls" if change < 0 else "rises"
    return "flat" if abs(change) <= HIDDEN * stderr and stderr <= SURE else "unclear"


# The change of a row of log losses from its start to its end, and its standard error.
def _trend(log: Floats) -> tuple[float, float]:
    medians = _medians(log)
    x = np.linspace(-0.5, 0.5, BLOCKS) * (1 - 1 / BLOCKS)
    slope = float(x @ medians / (x @ x))
    rest = medians - medians.mean() - slope * x
    return slope, float(np.sqrt(rest @ rest / (BLOCKS - 2) / (x @ x)))


def _medians(log: Floats) -> Floats:
    return np.array([np.median(part) for part in np.array_split(log, BLOCKS)])


def _is_flat(log: Floats) -> bool:
    slope, stderr = _trend(log)
    return abs(slope) <= float(t_quantile(CERTAIN, BLOCKS - 1)) * stderr


# The first update from which on the loss has no trend, and does not begin off its later level.
def _flat_since(step: NDArray[np.int64], log: Floats) -> int:
    for share in np.linspace(0, 1 - PARTS, PLACES):
        part = log[step > share * step[-1]]
        first, *others = _medians(part)
        off = (first - np.mean(others)) / max(float(np.std(others, ddof=1)), 1e-12)
        if abs(off) <= 3 and _is_flat(part):
            return int(step[step > share * step[-1]][0])
    return int(step[step > (1 - PARTS) * step[-1]][0])
