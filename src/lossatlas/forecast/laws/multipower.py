"""The multi-power law: every fall of the rate wins a saturating power of the rates since.

A drop sum has one term for every observation and every earlier fall: too many. Its kernel
bends only near the observation, so falls are merged there over a few steps, and over spans
that double with their age elsewhere (weights, mean position and mean rate are kept, so the
error is of second order in span / age).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.checks import check_flag
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import FitData, ScheduleLaw, falls, rate_sums
from lossatlas.forecast.schedules import warmup_length

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

FINE = 4  # steps merged next to an observation, at most
LONG = 4096  # every so many steps of a run allow one more of them
NEAR = 12  # spans kept on each level before the next one doubles them
# A warm-up passes through all rates in a few spans, and the kernel is a power of the rate.
NEAR_WARMUP = 192
TINY = 1e-6  # rates below this share of the peak count as this in powers of the rate


@dataclass(frozen=True, eq=False)
class Drops:
    """The merged falls before every observation, one entry a pair.

    Attributes:
        weight: (n, pairs) sparse: the fall of each pair in the row of its observation.
        log_rate: (pairs,) logarithm of the rate after the fall.
        since: (pairs,) sum of rates from the fall to the observation.
    """

    weight: scipy.sparse.csr_array
    log_rate: Floats
    since: Floats


def merged_drops(inputs: Inputs, with_warmup: bool = False) -> Drops:
    """Merge the falls of a schedule for the points of a run."""
    rates = np.asarray(inputs.lr)
    change = falls(inputs, with_warmup)[: inputs.step[-1]]
    total = np.concatenate([[0.0], np.cumsum(rates)])
    near = NEAR_WARMUP if with_warmup else NEAR
    parts = [
        _merge(np.where(sign * change > 0, change, 0.0), inputs.step, rates, total, near)
        for sign in (1, -1)
        if (sign * change > 0).any()
    ]
    n = inputs.step.size
    if not parts:
        return Drops(scipy.sparse.csr_array((n, 0)), np.empty(0), np.empty(0))
    row, fall, log_rate, since = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    indptr = np.searchsorted(row[order], np.arange(n + 1))
    weight = scipy.sparse.csr_array(
        (fall[order], np.arange(order.size), indptr), shape=(n, order.size)
    )
    return Drops(weight, log_rate[order], since[order])


def _merge(
    change: Floats, step: Indices, rates: Floats, total: Floats, near: int
) -> tuple[Indices, Floats, Floats, Floats]:
    edges, floor = _edges(step), TINY * rates.max()
    mass = _sums(change, edges)
    before = _sums(change * total[: change.size], edges)
    rate = _sums(change * rates[: change.size], edges)
    ends = np.searchsorted(edges, step)
    out: list[tuple[Indices, Indices, int]] = []
    level = 0
    rows = np.arange(step.size)
    while rows.size:
        # Keep `near` spans of this level, and one more where the next level must start even.
        start = np.maximum(ends - near, 0)
        start -= start % 2
        out.append((np.repeat(rows, ends - start), _ranges(start, ends), level))
        alive = start > 0
        rows, ends, level = rows[alive], start[alive] // 2, level + 1
    parts = []
    for rows, cells, depth in out:
        m, b, r = (_halved(sums, depth)[cells] for sums in (mass, before, rate))
        keep = m != 0
        at, m, b, r = rows[keep], m[keep], b[keep], r[keep]
        since = total[step[at]] - b / m
        parts.append((at, m, np.log(np.maximum(r / m, floor)), np.maximum(since, 0.0)))
    row, m, log_rate, since = (np.concatenate(part) for part in zip(*parts, strict=True))
    return row, m, log_rate, since


# Cell borders: every observation, and every few steps.
def _edges(step: Indices) -> Indices:
    fine = int(np.clip(step[-1] // LONG, 1, FINE))
    return np.unique(np.concatenate([np.arange(0, step[-1], fine), step]))


def _sums(values: Floats, edges: Indices) -> Floats:
    return np.add.reduceat(values, edges[:-1])


def _halved(sums: Floats, depth: int) -> Floats:
    for _ in range(depth):
        if sums.size % 2:
            sums = np.append(sums, 0.0)
        sums = sums[0::2] + sums[1::2]
    return sums


# The concatenation of arange(a, b) for all pairs.
def _ranges(start: Indices, stop: Indices) -> Indices:
    count = stop - start
    offset = np.repeat(start - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
    return offset + np.arange(count.sum())


SPREAD = 0.5  # standard deviation of the prior, in e-folds


@dataclass(frozen=True)
class MultiPowerLaw(ScheduleLaw):
    """L(t) = L0 + A S1(t)^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t)).

    G(x) = 1 - (1 + C x)^-beta; S1 sums all rates up to t (warm-up included), S_k those from
    update k on. Few curves leave (C, beta, gamma) nearly free, so a weak log-normal prior holds
    them; `fit(..., prior=False)` lets go.

    Attributes:
        warmup_drops: count the warm-up as rises of the rate, as the reference fit does; only to
            evaluate parameters published that way. Default False.

    Source: Luo et al., ICLR 2025, eq. 3, arXiv:2503.12811.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 20], [3.0, 2.5], lr=np.linspace(0.1, 0.0, 20))
        >>> MultiPowerLaw().predict([2.0, 1.0, 0.5, 1.0, 1.0, 0.5, 0.5], curve.inputs).round(3)
        array([3.131, 2.972])
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    warmup_drops: bool = False

    def __post_init__(self) -> None:
        """Check the setting."""
        check_flag("warmup_drops", self.warmup_drops)

    def features(self, inputs: Inputs) -> tuple[Floats, Drops]:
        """The sums of rates and the merged falls."""
        return np.log(rate_sums(inputs)), merged_drops(inputs, self.warmup_drops)

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        lowest, amplitude, alpha, gain, *shape = values
        log_sum, drops = features
        power = np.exp(-alpha * log_sum)
        won = _won(drops, *shape)
        loss = lowest + amplitude * power - gain * won[:, 0]
        jacobian = np.empty((loss.size, 7))
        jacobian[:, 0] = 1.0
        jacobian[:, 1] = power
        jacobian[:, 2] = -amplitude * power * log_sum
        jacobian[:, 3] = -won[:, 0]
        jacobian[:, 4:] = -gain * won[:, 1:]
        return loss, jacobian

    def columns(self, problem: FitData) -> Iterator[tuple[Floats, Floats]]:
        """Columns for a coarse grid of shapes."""
        log_sum = np.concatenate([f[0] for f in problem.features])
        peak = _peak(problem)
        for pace, beta in product((0.03, 0.3), (0.3, 0.7)):
            gamma = 0.5
            reach = pace * peak ** (gamma - 1)
            won = np.concatenate(
                [_won(f[1], reach, beta, gamma)[:, 0] for f in problem.features]
            )
            for alpha in (0.3, 0.6, 1.0):
                columns = np.stack([np.ones_like(won), np.exp(-alpha * log_sum), -won], axis=1)
                yield np.array([alpha, reach, beta, gamma]), columns

    def join(self, mix: Floats, shape: Floats) -> Floats:
        """Order the parameters."""
        return np.array([mix[0], mix[1], shape[0], mix[2], *shape[1:]])

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """Wide limits, relative to the losses and the peak rate."""
        low, top = problem.loss.min(), problem.loss.max()
        peak = _peak(problem)
        sums = np.exp(max(f[0].max() for f in problem.features))
        return (
            np.array([1e-4 * low, 1e-8 * low, 0.01, 1e-6 * low / peak, 1e-6, 1e-3, 1e-3]),
            np.array(
                [top, 1e6 * top * max(sums, 1.0) ** 2, 5.0, 1e4 * top / peak, 1e8, 50.0, 3.0]
            ),
        )

    def prior(self, logs: Floats, problem: FitData) -> tuple[Floats, Floats]:
        """Beliefs about the pace C eta^(1 - gamma) at the peak rate, beta and gamma."""
        gamma = np.exp(logs[6])
        log_peak = np.log(_peak(problem))
        pace = logs[4] + (1 - gamma) * log_peak
        rows = np.array([pace - np.log(0.1), logs[5] - np.log(0.5), logs[6] - np.log(0.5)])
        slopes = np.zeros((3, 7))
        slopes[0, 4], slopes[0, 6] = 1.0, -gamma * log_peak
        slopes[1, 5] = slopes[2, 6] = 1.0
        spread = np.array([2.0, SPREAD, SPREAD])
        return rows / spread, slopes / spread[:, None]

    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a schedule and its derivative by every rate, without merging."""
        lowest, amplitude, alpha, gain, reach, beta, gamma = values
        total = rates.sum()
        change = falls(Inputs(np.array([rates.size]), rates), self.warmup_drops)
        safe = np.maximum(rates, TINY * rates.max())
        since = np.cumsum(rates[::-1])[::-1]
        scale = reach * safe**-gamma
        x = scale * since
        rest = (1 + x) ** -beta
        loss = lowest + amplitude * total**-alpha - gain * (change * (1 - rest)).sum()
        slope = change * beta * rest / (1 + x)  # change * dG/dx
        gradient = np.full(rates.size, -alpha * amplitude * total ** (-alpha - 1))
        by_rate = np.where(rates == safe, gamma * slope * x / safe, 0.0)
        gradient -= gain * (np.cumsum(slope * scale) - by_rate)
        first = 0 if self.warmup_drops else warmup_length(rates) + 1
        gradient[first:] += gain * (1 - rest[first:])
        gradient[max(first - 1, 0) : -1] -= gain * (1 - rest[max(first, 1) :])
        return float(loss), gradient


# The sum of falls times G, and its derivatives by C, beta and gamma: (n, 4).
def _won(drops: Drops, reach: float, beta: float, gamma: float) -> Floats:
    x = np.exp(np.log(reach) - gamma * drops.log_rate) * drops.since
    log = np.log1p(x)
    rest = np.exp(-beta * log)
    slope = beta * rest * x / (1 + x)
    terms = (1 - rest, slope / reach, log * rest, -slope * drops.log_rate)
    # One product a column: putting them side by side takes as long as the powers.
    return np.stack([drops.weight @ term for term in terms], axis=1)


def _peak(problem: FitData) -> float:
    return float(max(c.lr.max() for c in problem.curves if c.lr is not None))
