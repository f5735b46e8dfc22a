"""Short runs at several peak learning rates, and the search for the best of them."""

import math

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.executor import Progress
from lossatlas.objective import Objective
from lossatlas.result import Estimate
from lossatlas.steering.judged_rate import GAIN, NO_ERROR, JudgedRate, is_as_good
from lossatlas.steering.lr_scaling import equivalent_rate
from lossatlas.steering.range_test import RangeTest
from lossatlas.steering.short_runs import BuildOptimizer, train_along, unit_losses

Floats = NDArray[np.float64]

# Rates of neighboring short runs differ by this factor; by its square far from the best.
_FACTOR = 2.0
_WARMUP = 0.1
# Searches end here, should every further rate be better still.
_MAX_RUNS = 14


class RateRuns:
    """Short runs at peak rates, each made once."""

    def __init__(
        self,
        training: Objective,
        build: BuildOptimizer,
        updates: int,
        judge: Objective,
        progress: Progress | None,
    ) -> None:
        self.training, self.build, self.judge, self._progress = training, build, judge, progress
        warm = max(1, round(_WARMUP * updates))
        rise = np.minimum(np.arange(1, updates + 1) / warm, 1.0)
        self.shape = rise * np.minimum(
            1.0, (updates - np.arange(updates)) / (updates - warm + 1)
        )
        self.losses_at: dict[float, Floats | None] = {}
        self.planned, self.judging = 0, 0

    def loss(self, rate: float) -> float:
        """The loss after a run that peaks at this rate."""
        if rate not in self.losses_at:
            losses, weights = train_along(self.training, self.build, rate * self.shape)
            finite = bool(np.isfinite(losses).all())
            self.losses_at[rate] = unit_losses(self.judge, weights) if finite else None
            if self._progress is not None:
                total = max(self.planned, len(self.losses_at))
                self._progress(len(self.losses_at), total, f"learning rate {rate:.3g}")
        ended = self.losses_at[rate]
        value = math.inf if ended is None else float(ended.mean())
        return value if math.isfinite(value) else math.inf

    def table(self) -> tuple[Floats, Floats, Floats, Floats, int]:
        """Rates, losses, gaps to the best run and their errors; units behind them."""
        rates = np.array(sorted(self.losses_at))
        losses = np.array([self.loss(rate) for rate in rates])
        best = self.losses_at[float(rates[int(np.argmin(losses))])]
        assert best is not None
        gaps, errors = losses - losses.min(), np.full(len(rates), math.nan)
        for at, rate in enumerate(rates):
            examples = self.losses_at[float(rate)]
            if examples is not None and math.isfinite(losses[at]) and len(examples) > 1:
                errors[at] = np.std(examples - best, ddof=1) / math.sqrt(len(examples))
        return rates, losses, gaps, errors, len(best)

    def judge_rate(self, rate: float, horizon: int) -> JudgedRate:
        """Runs at this rate and at the best one; they take no part in the search."""
        searched = dict(self.losses_at)
        rates, losses, *_ = self.table()
        reference = best_rate(rates, losses)
        if not math.isfinite(self.loss(reference)):
            reference = float(rates[int(np.argmin(losses))])
        peak = equivalent_rate(rate, reference, len(self.shape), horizon)
        loss, gap, error = self.loss(rate), self.loss(peak) - self.loss(reference), math.nan
        ended, best = self.losses_at[peak], self.losses_at[reference]
        assert best is not None
        if ended is not None and math.isfinite(gap) and len(best) > 1:
            error = float(np.std(ended - best, ddof=1)) / math.sqrt(len(best))
        start, reference_loss = float(self._start().mean()), self.loss(reference)
        self.judging = len(self.losses_at) - len(searched)
        self.losses_at = searched
        return JudgedRate(
            rate, loss, start, peak, reference, reference_loss, gap, error, len(best)
        )

    def _start(self) -> Floats:
        return unit_losses(self.judge, self.judge.params)

    def gain(self) -> Estimate:
        """How far the best run is below the loss without training."""
        start = self._start()
        best = self.losses_at[min(self.losses_at, key=self.loss)]
        assert best is not None
        gaps, unit = start - best, self.judge.unit
        error = (
            float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
        )
        return Estimate(
            float(gaps.mean()), error, samples=len(gaps), sample_unit=unit,
            why_no_error=_why_no_error(gaps, error),
            name=GAIN, meaning="loss before it - loss after it, on the same held-out data",
        )  # fmt: skip


def _why_no_error(gaps: Floats, error: float) -> str | None:
    if math.isfinite(error):
        return None
    return "a loss is not finite" if len(gaps) > 1 else NO_ERROR


def search_rates(runs: RateRuns, test: RangeTest, min_lr: float, max_lr: float) -> None:
    """Run a ladder of rates, coarsely outward while an end is best, then finely."""
    low = test.falls_at if math.isfinite(test.falls_at) else min_lr
    high = min(test.diverges_at, max_lr)
    rungs = min(max(math.ceil(math.log(high / low, _FACTOR)), 4), 10)

    def loss(rung: int) -> float:
        return runs.loss(high * _FACTOR**-rung)

    def lowest(tried: set[int]) -> int:
        # Of runs that all diverged, the one at the least rate: the way out is downward.
        return min(sorted(tried, reverse=True), key=loss)

    tried = set(range(0, rungs + 1, 2))
    # The two neighbors of the best come last.
    runs.planned = len(tried) + 2
    best = lowest(tried)
    for step in (2, 1):
        while len(tried) < _MAX_RUNS and not {best - step, best + step} <= tried:
            tried |= {best - step, best + step}
            runs.planned = max(runs.planned, len(tried) + 2 * (step == 2))
            best = lowest(tried)
    if not math.isfinite(loss(best)):
        raise ArgumentError(
            f"every run between {min(runs.losses_at):.2g} and {max(runs.losses_at):.2g} "
            "diverged; lower `min_lr`, or look at the loss."
        )


def acceptable_range(
    rates: Floats, losses: Floats, gaps: Floats, errors: Floats, units: int
) -> tuple[float, float]:
    """Rates next to the best that are about as good, halfway to the first that is not."""
    best, lowest = int(np.argmin(losses)), float(losses.min())

    def alike(at: int) -> bool:
        return is_as_good(float(gaps[at]), float(errors[at]), units, lowest)

    def end(step: int) -> float:
        at = best
        while 0 <= at + step < len(rates) and alike(at + step):
            at += step
        if not 0 <= at + step < len(rates):
            return float(rates[at])
        return math.sqrt(rates[at] * rates[at + step])

    return end(-1), end(1)


def best_rate(rates: Floats, losses: Floats) -> float:
    """Vertex of the parabola through the lowest run and its neighbors, in log rate."""
    best = int(np.argmin(losses))
    if not 0 < best < len(rates) - 1 or not np.isfinite(losses[best - 1 : best + 2]).all():
        return float(rates[best])
    x, y = np.log(rates[best - 1 : best + 2]), losses[best - 1 : best + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    if not bend > 0:
        return float(rates[best])
    vertex = (x[0] + x[1]) / 2 - left / (2 * bend)
    return float(np.exp(np.clip(vertex, (x[0] + x[1]) / 2, (x[1] + x[2]) / 2)))
