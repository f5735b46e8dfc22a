"""The annealing law: falls of the rate win loss through a momentum of fixed decay."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.checks import check_fraction
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import Law, falls, rate_sums
from lossatlas.forecast.laws.linear import SumLaw
from lossatlas.forecast.schedules import warmup_length

Floats = NDArray[np.float64]

DECAYS = (0.99, 0.995, 0.999, 0.9995)  # that have served


@dataclass(frozen=True)
class AnnealingLaw(SumLaw):
    """L(t) = L0 + A S1(t)^-alpha - C S2(t), with S2 the sum of m_i = decay m_{i-1} + fall_i.

    S2 never saturates: long stretches at a low rate are predicted too low. The decay counts
    steps, so it belongs to one batch size.

    Attributes:
        decay: lambda, in (0, 1); 0.99 to 0.9997 have served, choose with `fit_best`. Default
            0.999.

    Raises:
        ArgumentError: a decay outside (0, 1).

    Source: Tissue, Wang, Wang 2024, arXiv:2408.11029.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 20], [3.0, 2.5], lr=np.linspace(0.1, 0.0, 20))
        >>> AnnealingLaw().predict([2.0, 1.0, 0.5, 0.1], curve.inputs).round(3)
        array([3.121, 2.901])
    """

    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "C")
    decay: float = 0.999

    def __post_init__(self) -> None:
        """Check the decay."""
        check_fraction("decay", self.decay)

    def relatives(self) -> tuple[Law, ...]:
        """The law with other decays."""
        return tuple(AnnealingLaw(decay) for decay in DECAYS if decay != self.decay)

    def features(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """The two sums at every point."""
        momentum = _decaying_sum(falls(inputs), self.decay)
        return np.log(rate_sums(inputs)), np.cumsum(momentum)[inputs.step - 1]

    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a schedule and its derivative by every rate."""
        lowest, amplitude, alpha, gain = values
        change = falls(Inputs(np.array([rates.size]), rates))
        # A fall at update k is counted 1 + decay + ... + decay^(T - k) times.
        weight = (1 - self.decay ** np.arange(rates.size, 0, -1)) / (1 - self.decay)
        total = rates.sum()
        gradient = np.full(rates.size, -alpha * amplitude * total ** (-alpha - 1))
        first = warmup_length(rates) + 1
        gradient[first:] += gain * weight[first:]
        gradient[first - 1 : -1] -= gain * weight[first:]
        loss = lowest + amplitude * total**-alpha - gain * (change * weight).sum()
        return float(loss), gradient


# m_i = decay m_(i-1) + x_i: a system of two diagonals. scipy.signal takes seconds to load.
def _decaying_sum(x: Floats, decay: float) -> Floats:
    rows = np.ones((2, x.size))
    rows[1] = -decay
    return np.asarray(scipy.linalg.solve_banded((1, 0), rows, x, check_finite=False))
