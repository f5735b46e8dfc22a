"""The two plainest laws in the rate: a power of its sum, and the same with a linear gain."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import FitData, ScheduleLaw, rate_sums
from lossatlas.forecast.schedules import warmup_length

Floats = NDArray[np.float64]

ALPHAS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.1, 1.5)


def sum_law(values: Floats, log_sum: Floats, gained: Floats) -> tuple[Floats, Floats]:
    """L0 + A S1^-alpha - C x and its derivatives: the body that three laws share."""
    lowest, amplitude, alpha, gain = values
    power = np.exp(-alpha * log_sum)
    jacobian = np.stack(
        [np.ones_like(power), power, -amplitude * power * log_sum, -gained], axis=1
    )
    return lowest + amplitude * power - gain * gained, jacobian


def sum_limits(problem: FitData, reach: float) -> tuple[Floats, Floats]:
    """Wide limits for L0, A, alpha and a gain of at most 100 times the loss."""
    low, top = problem.loss.min(), problem.loss.max()
    sums = np.exp(max(float(f[0].max()) for f in problem.features))
    unit = low / reach if reach > 0 else low
    return (
        np.array([1e-4 * low, 1e-8 * low, 0.01, 1e-6 * unit]),
        np.array([top, 1e6 * top * max(sums, 1.0) ** 2, 5.0, 100 * unit]),
    )


class SumLaw(ScheduleLaw):
    """L0 + A S1^-alpha - C x, with x what falls of the rate have won; a law defines x."""

    @abstractmethod
    def features(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """The logarithm of the sum of rates, and x."""

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        return sum_law(values, *features)

    def columns(self, problem: FitData) -> Iterator[tuple[Floats, Floats]]:
        """Columns for a grid of alpha."""
        log_sum, gained = (np.concatenate(p) for p in zip(*problem.features, strict=True))
        for alpha in ALPHAS:
            powers = np.exp(-alpha * log_sum)
            columns = np.stack([np.ones_like(gained), powers, -gained], axis=1)
            yield np.array([alpha]), columns

    def join(self, mix: Floats, shape: Floats) -> Floats:
        """Order the parameters."""
        return np.array([mix[0], mix[1], shape[0], mix[2]])

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """Wide limits, relative to the losses."""
        return sum_limits(problem, max(float(np.abs(f[1]).max()) for f in problem.features))


@dataclass(frozen=True)
class LinearLRLaw(SumLaw):
    """L(t) = L0 + A S1(t)^-alpha - B (peak - eta_t): a fall of the rate wins at once.

    The peak is the rate at the end of the warm-up. The limit of the multi-power law for G = 1.

    Source: Luo et al., ICLR 2025, sec. 3, arXiv:2503.12811.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 20], [3.0, 2.5], lr=np.linspace(0.1, 0.0, 20))
        >>> LinearLRLaw().predict([2.0, 1.0, 0.5, 1.0], curve.inputs).round(3)
        array([3.097, 2.9  ])
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "B")

    def features(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """The sum of rates and the fall from the peak."""
        sums = rate_sums(inputs)
        rates = np.asarray(inputs.lr)
        return np.log(sums), np.where(
            inputs.step > inputs.warmup, rates[inputs.warmup] - rates[inputs.step - 1], 0.0
        )

    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a schedule and its derivative by every rate."""
        lowest, amplitude, alpha, gain = values
        total, warm = rates.sum(), warmup_length(rates)
        gradient = np.full(rates.size, -alpha * amplitude * total ** (-alpha - 1))
        gradient[-1] += gain
        gradient[warm] -= gain
        loss = lowest + amplitude * total**-alpha - gain * (rates[warm] - rates[-1])
        return float(loss), gradient


@dataclass(frozen=True)
class PowerLaw(ScheduleLaw):
    """L(t) = L0 + A S1(t)^-alpha: no gain from falls of the rate.

    Without rates S1 counts updates, which is the plain power law in time. A baseline, and a
    fair law for runs at a constant rate.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 100], [3.0, 2.5])
        >>> PowerLaw().predict([2.0, 1.0, 0.5], curve.inputs).round(3)
        array([2.316, 2.1  ])
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha")
    needs: ClassVar[tuple[str, ...]] = ()

    def features(self, inputs: Inputs) -> tuple[Floats]:
        """The sum of rates."""
        return (np.log(rate_sums(inputs)),)

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        log_sum = features[0]
        loss, jacobian = sum_law(np.append(values, 0.0), log_sum, np.zeros_like(log_sum))
        return loss, jacobian[:, :3]

    def columns(self, problem: FitData) -> Iterator[tuple[Floats, Floats]]:
        """Columns for a grid of alpha."""
        log_sum = np.concatenate([f[0] for f in problem.features])
        for alpha in ALPHAS:
            powers = np.exp(-alpha * log_sum)
            yield np.array([alpha]), np.stack([np.ones_like(powers), powers], axis=1)

    def join(self, mix: Floats, shape: Floats) -> Floats:
        """Order the parameters."""
        return np.array([mix[0], mix[1], shape[0]])

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """Wide limits, relative to the losses."""
        low, high = sum_limits(problem, 1.0)
        return low[:3], high[:3]

    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a schedule and its derivative by every rate."""
        lowest, amplitude, alpha = values
        total = rates.sum()
        slope = -alpha * amplitude * total ** (-alpha - 1)
        return float(lowest + amplitude * total**-alpha), np.full(rates.size, slope)
