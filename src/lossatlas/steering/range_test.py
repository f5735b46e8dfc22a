"""The learning-rate range test: one run whose rate grows with every update."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.io.records import record
from lossatlas.objective import Objective
from lossatlas.steering.short_runs import BuildOptimizer, train_along

Floats = NDArray[np.float64]

# Updates over which the losses are averaged.
_MEMORY = 8.0


@record
@dataclass(frozen=True, eq=False)
class RangeTest:
    """One run whose rate grows with every update.

    Attributes:
        rates: (updates,) the rate of each.
        losses: of each batch before its update; NaN after a divergence.
        average: their running mean without the bias of its start.
        stderr: its error, from the scatter of the losses around it.
        falls_at: the first rate where the average is below the first losses beyond its error;
            NaN where it never is.
        diverges_at: the rate at which the loss blew up; infinite where it did not.

    Examples:
        >>> rates, losses = np.array([0.1, 1.0]), np.array([2.0, 1.0])
        >>> RangeTest(rates, losses, losses, 0 * losses, 1.0, math.inf).falls_at
        1.0
    """

    rates: Floats
    losses: Floats
    average: Floats
    stderr: Floats
    falls_at: float
    diverges_at: float


def run_range_test(training: Objective, build: BuildOptimizer, rates: Floats) -> RangeTest:
    """Train with one rate an update, until the loss blows up."""
    losses, _ = train_along(training, build, rates)
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        raise ArgumentError("`objective` has no finite loss at its weights; look at the loss.")
    weights = np.exp(-np.arange(len(finite)) / _MEMORY)
    average, stderr = np.full(len(rates), math.nan), np.full(len(rates), math.nan)
    start = max(3, len(rates) // 10)
    scatter = (
        float(np.std(np.diff(finite[:start]))) / math.sqrt(2) if len(finite) > 2 else math.nan
    )
    for at in range(len(finite)):
        share = weights[at::-1] / weights[: at + 1].sum()
        average[at] = share @ finite[: at + 1]
        stderr[at] = scatter * math.sqrt(float(share @ share))
    level = float(np.mean(finite[:start]))
    error = np.hypot(stderr, scatter / math.sqrt(start))
    falls = np.flatnonzero(average < level - 3 * error - 1e-3 * abs(level))
    diverged = len(finite) < len(rates)
    return RangeTest(
        rates,
        losses,
        average,
        stderr,
        float(rates[falls[0]]) if falls.size else math.nan,
        float(rates[len(finite) - 1]) if diverged else math.inf,
    )
