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
PROFILE = np.geomspace(0.01, 5.0, 16)  # alphas of a profile: no minimum hides between two
ZOOMS = np.linspace(-0.75, 0.75, 7), np.linspace(-0.25, 0.25, 5)  # in spacings of the profile
COARSE = 250  # points at least that a profile is taken over, where there are more
ROUNDS = 2  # of reweighting
MINIMA = 3  # of a profile that are looked at
WORSE = 1.5  # times the value of the best minimum: a worse one is not followed


def sum_law(values: Floats, log_sum: Floats, gained: Floats) -> tuple[Floats, Floats]:
    """L0 + A S1^-alpha - C x and its derivatives: the body that three laws share."""
    lowest, amplitude, alpha, gain = values
    power = np.exp(-alpha * log_sum)
    falling = amplitude * power
    jacobian = np.empty((power.size, 4))
    jacobian[:, 0], jacobian[:, 1] = 1.0, power
    jacobian[:, 2], jacobian[:, 3] = -falling * log_sum, -gained
    return lowest + falling - gain * gained, jacobian


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

    def profile(self, problem: FitData, weight: Floats, huber: float) -> Floats:
        """The best L0 and A for a grid of alpha, and of these the local minima."""
        log_sum = np.concatenate([f[0] for f in problem.features])
        points = np.stack([log_sum, problem.loss, weight])
        coarse = points[:, :: max(1, weight.size // COARSE)]
        spacing = np.log(PROFILE[1] / PROFILE[0])
        rows = _power_profile(PROFILE, coarse, huber)
        around = np.pad(rows[:, 3], 1, constant_values=np.inf)
        # Where the mean fits best all alphas do: the largest has the least to say.
        minima = np.flatnonzero((rows[:, 3] <= around[:-2]) & (rows[:, 3] < around[2:]))
        rows = rows[minima[np.argsort(rows[minima, 3], kind="stable")][:MINIMA]]
        for zoom, seen in zip(ZOOMS, (coarse, points), strict=True):
            alphas = np.clip(np.outer(rows[:, 2], np.exp(spacing * zoom)), *PROFILE[[0, -1]])
            finer = _power_profile(alphas.ravel(), seen, huber)
            finer = finer.reshape(len(rows), zoom.size, 4)
            rows = finer[np.arange(len(rows)), finer[:, :, 3].argmin(axis=1)]
        return np.asarray(rows[rows[:, 3] <= WORSE * rows[:, 3].min(), :3])

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


# (alphas, 4): for each alpha the best L0 and A, alpha, and their Huber loss. The law is linear
# in L0 and A: two Gauss-Newton equations, solved again with the weights of the residuals.
def _power_profile(alphas: Floats, points: Floats, huber: float) -> Floats:
    log_sum, loss, weight = points
    # Relative to the smallest sum, powers of all alphas are of one size.
    smallest, floor = log_sum.min(), 1e-8 * loss.min()
    power = np.exp(-np.outer(alphas, log_sum - smallest))
    log_loss, target = np.log(loss), np.broadcast_to(loss, power.shape)
    weights = np.broadcast_to(weight / loss**2, power.shape)
    for _ in range(ROUNDS + 1):
        weighted = weights * power
        lowest, amplitude = _pairs(
            weights.sum(axis=1), weighted.sum(axis=1),
            np.einsum("ij,ij->i", weighted, power),
            np.einsum("ij,ij->i", weights, target), np.einsum("ij,ij->i", weighted, target),
        )  # fmt: skip
        lowest, amplitude = np.maximum(lowest, 1e4 * floor), np.maximum(amplitude, floor)
        fitted = lowest[:, None] + amplitude[:, None] * power
        residuals = np.log(fitted) - log_loss
        size = np.abs(residuals)
        weights = weight * np.minimum(1.0, huber / np.maximum(size, 1e-300)) / fitted**2
        target = fitted * (1 - residuals)
    inner = np.minimum(size, huber)
    value = (inner * (size - 0.5 * inner)) @ weight
    return np.stack([lowest, amplitude * np.exp(alphas * smallest), alphas, value], axis=1)


# The best pair that is not negative, for many pairs of normal equations.
def _pairs(aa: Floats, ab: Floats, bb: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    determinant = aa * bb - ab**2
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (a * bb - b * ab) / determinant, (aa * b - ab * a) / determinant
    inside = (x >= 0) & (y >= 0)
    # Otherwise one of the two is zero; a falls below zero only where b alone fits better.
    alone = a**2 / aa >= b**2 / bb
    return (
        np.where(inside, x, np.where(alone, a / aa, 0.0)),
        np.where(inside, y, np.where(alone, 0.0, b / bb)),
    )
