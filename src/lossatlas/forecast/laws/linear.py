"""The two plainest laws in the rate: a power of its sum, and the same with a linear gain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import Problem, ScheduleLaw
from lossatlas.forecast.schedules import warmup_length
from lossatlas.forecast.sums import rate_sums

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


def sum_limits(problem: Problem, reach: float) -> tuple[Floats, Floats]:
    """Wide limits for L0, A, alpha and a gain of at most 100 times the loss."""
    low, top = problem.loss.min(), problem.loss.max()
    sums = np.exp(max(float(f[0].max()) for f in problem.features))
    unit = low / reach if reach > 0 else low
    return (
        np.array([1e-4 * low, 1e-8 * low, 0.01, 1e-6 * unit]),
        np.array([top, 1e6 * top * max(sums, 1.0) ** 2, 5.0, 100 * unit]),
    )


@dataclass(frozen=True)
class LinearLRLaw(ScheduleLaw):
    """L(t) = L0 + A S1(t)^-alpha - B (peak - eta_t): a fall of the rate wins at once.

    The peak is the rate at the end of the warm-up. The limit of the multi-power law for G = 1.

    Source: Luo et al., ICLR 2025, sec. 3, arXiv:2503.12811.
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "B")

    def features(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """The sum of rates and the fall from the peak.

        Args:
            inputs: the conditions, with rates.

        Returns:
            log S1 and peak - eta.
        """
        sums = rate_sums(inputs)
        rates = np.asarray(inputs.rates)
        return np.log(sums), np.where(
            inputs.step > inputs.warmup, rates[inputs.warmup] - rates[inputs.step - 1], 0.0
        )

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives.

        Args:
            values: (4,) parameters.
            features: from `features`.

        Returns:
            (n,) losses and the (n, 4) Jacobian.
        """
        return sum_law(values, *features)

    def columns(self, problem: Problem) -> Iterator[tuple[Floats, Floats]]:
        """Columns for a grid of alpha.

        Args:
            problem: the data.

        Yields:
            (alpha,) and the columns 1, S1^-alpha, eta - peak.
        """
        log_sum, fall = (np.concatenate(part) for part in zip(*problem.features, strict=True))
        for alpha in ALPHAS:
            powers = np.exp(-alpha * log_sum)
            yield np.array([alpha]), np.stack([np.ones_like(fall), powers, -fall], axis=1)

    def join(self, mix: Floats, shape: Floats) -> Floats:
        """Order the parameters.

        Args:
            mix: (L0, A, B).
            shape: (alpha,).

        Returns:
            (4,) values.
        """
        return np.array([mix[0], mix[1], shape[0], mix[2]])

    def limits(self, problem: Problem) -> tuple[Floats, Floats]:
        """Wide limits, relative to the losses.

        Args:
            problem: the data.

        Returns:
            Lowest and highest values.
        """
        return sum_limits(problem, max(float(np.abs(f[1]).max()) for f in problem.features))

    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a schedule and its derivative by every rate.

        Args:
            values: (4,) parameters.
            rates: (T,) rates.

        Returns:
            The loss and (T,) derivatives.
        """
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
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha")
    needs: ClassVar[tuple[str, ...]] = ()

    def features(self, inputs: Inputs) -> tuple[Floats]:
        """The sum of rates.

        Args:
            inputs: the conditions.

        Returns:
            log S1.
        """
        return (np.log(rate_sums(inputs)),)

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives.

        Args:
            values: (3,) parameters.
            features: from `features`.

        Returns:
            (n,) losses and the (n, 3) Jacobian.
        """
        log_sum = features[0]
        loss, jacobian = sum_law(np.append(values, 0.0), log_sum, np.zeros_like(log_sum))
        return loss, jacobian[:, :3]

    def columns(self, problem: Problem) -> Iterator[tuple[Floats, Floats]]:
        """Columns for a grid of alpha.

        Args:
            problem: the data.

        Yields:
            (alpha,) and the columns 1, S1^-alpha.
        """
        log_sum = np.concatenate([f[0] for f in problem.features])
        for alpha in ALPHAS:
            powers = np.exp(-alpha * log_sum)
            yield np.array([alpha]), np.stack([np.ones_like(powers), powers], axis=1)

    def join(self, mix: Floats, shape: Floats) -> Floats:
        """Order the parameters.

        Args:
            mix: (L0, A).
            shape: (alpha,).

        Returns:
            (3,) values.
        """
        return np.array([mix[0], mix[1], shape[0]])

    def limits(self, problem: Problem) -> tuple[Floats, Floats]:
        """Wide limits, relative to the losses.

        Args:
            problem: the data.

        Returns:
            Lowest and highest values.
        """
        low, high = sum_limits(problem, 1.0)
        return low[:3], high[:3]

    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a schedule and its derivative by every rate.

        Args:
            values: (3,) parameters.
            rates: (T,) rates.

        Returns:
            The loss and (T,) derivatives.
        """
        lowest, amplitude, alpha = values
        total = rates.sum()
        slope = -alpha * amplitude * total ** (-alpha - 1)
        return float(lowest + amplitude * total**-alpha), np.full(rates.size, slope)
