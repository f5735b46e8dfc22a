"""The multi-power law: every fall of the rate wins a saturating power of the rates since."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_flag
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import Problem, ScheduleLaw
from lossatlas.forecast.laws.merging import TINY, Drops, merged_drops
from lossatlas.forecast.schedules import warmup_length
from lossatlas.forecast.sums import falls, rate_sums

Floats = NDArray[np.float64]

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
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    warmup_drops: bool = False

    def __post_init__(self) -> None:
        """Check the setting.

        Raises:
            ArgumentError: `warmup_drops` is neither True nor False.
        """
        check_flag("warmup_drops", self.warmup_drops)

    def features(self, inputs: Inputs) -> tuple[Floats, Drops]:
        """The sums of rates and the merged falls.

        Args:
            inputs: the conditions, with rates.

        Returns:
            log S1 and the pairs.
        """
        return np.log(rate_sums(inputs)), merged_drops(inputs, self.warmup_drops)

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives.

        Args:
            values: (7,) parameters.
            features: from `features`.

        Returns:
            (n,) losses and the (n, 7) Jacobian.
        """
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

    def columns(self, problem: Problem) -> Iterator[tuple[Floats, Floats]]:
        """Columns for a coarse grid of shapes.

        Args:
            problem: the data.

        Yields:
            (alpha, C, beta, gamma) and the columns 1, S1^-alpha, minus the sum of falls.
        """
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
        """Order the parameters.

        Args:
            mix: (L0, A, B).
            shape: (alpha, C, beta, gamma).

        Returns:
            (7,) values.
        """
        return np.array([mix[0], mix[1], shape[0], mix[2], *shape[1:]])

    def limits(self, problem: Problem) -> tuple[Floats, Floats]:
        """Wide limits, relative to the losses and the peak rate.

        Args:
            problem: the data.

        Returns:
            Lowest and highest values.
        """
        low, top = problem.loss.min(), problem.loss.max()
        peak = _peak(problem)
        sums = np.exp(max(f[0].max() for f in problem.features))
        return (
            np.array([1e-4 * low, 1e-8 * low, 0.01, 1e-6 * low / peak, 1e-6, 1e-3, 1e-3]),
            np.array(
                [top, 1e6 * top * max(sums, 1.0) ** 2, 5.0, 1e4 * top / peak, 1e8, 50.0, 3.0]
            ),
        )

    def prior(self, logs: Floats, problem: Problem) -> tuple[Floats, Floats]:
        """Beliefs about the pace C eta^(1 - gamma) at the peak rate, beta and gamma.

        Args:
            logs: (7,) logarithms.
            problem: the data, for the peak rate.

        Returns:
            Three distances and their derivatives.
        """
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
        """The loss after a schedule and its derivative by every rate, without merging.

        Args:
            values: (7,) parameters.
            rates: (T,) rates.

        Returns:
            The loss and (T,) derivatives.
        """
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
    terms = np.stack([1 - rest, slope / reach, log * rest, -slope * drops.log_rate], axis=1)
    return np.asarray(drops.weight @ terms)


def _peak(problem: Problem) -> float:
    return float(max(c.rates.max() for c in problem.curves if c.rates is not None))
