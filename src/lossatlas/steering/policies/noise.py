"""Gradient noise: noisy groups of parameters get lower rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lossatlas.checks import check_positive
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.reading import Decision, Reading, State

# Above this ratio of variance to squared mean the ratio itself is not resolved.
_MAX_NOISE = 1e6
_UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class NoisePolicy:
    """Rates of groups (layers, see `layer_groups`) by the noise of their gradients.

    The least noisy group keeps its rate; the others get sqrt(a / max a) of theirs, with
    a = alpha / sqrt(alpha^2 + noise) and noise = E[variance] / E[squared mean]. The two
    estimates are averaged over readings before they are divided: one inner product below zero,
    which is common in small batches, then fades like every other reading.

    Attributes:
        alpha: noise (variance over squared mean) at which it begins to count. Default 1.
        smoothing: weight of the past in both averages. Default 0.9.
        every: steps between readings; each takes the gradients of two updates in a row.
            Default 10.

    Raises:
        ArgumentError: numbers out of range.

    Source: the form of LANTON, arXiv:2510.14009, with noise relative to the gradient, since
        adaptive optimizers divide its units out. The paper's norms are those of Muon.

    Examples:
        >>> from lossatlas.steering import replay
        >>> noise = ((0.0, 1.0), (3.0, 1.0))
        >>> replay(NoisePolicy(), [Reading(10, noise=noise)])[0].factor
        (1.0, 0.7071067811865476)
    """

    alpha: float = 1.0
    smoothing: float = 0.9
    every: int | None = 10

    needs = frozenset({"noise"})
    before = False
    limits = (0.0, 1.0)
    warmup = 0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)
        check_share("smoothing", self.smoothing)
        if self.every is not None and self.every < 2:
            raise ArgumentError(f"`every` must be at least 2; got {self.every!r}.")

    def start(self) -> State:
        """The memory before the first reading."""
        return {"noise": []}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """One scale a group."""
        before = [tuple(pair) for pair in state["noise"]]
        before += [_UNKNOWN] * (len(reading.noise) - len(before))
        pairs = zip(before, reading.noise, strict=True)
        after = [self._averaged(old, new) for old, new in pairs]
        if not after:
            return {"noise": []}, Decision(1.0, "no noise read", absolute=True)
        shares = [self._share(*pair) for pair in after]
        largest = max(shares)
        scales = tuple(math.sqrt(share / largest) for share in shares)
        memory = {"noise": [list(pair) for pair in after]}
        return memory, Decision(scales, "noise of groups", absolute=True)

    def _averaged(self, old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
        if not all(map(math.isfinite, new)):
            return old[0], old[1]
        if not all(map(math.isfinite, old)):
            return new[0], new[1]
        past, present = self.smoothing, 1 - self.smoothing
        return past * old[0] + present * new[0], past * old[1] + present * new[1]

    def _share(self, variance: float, squared_mean: float) -> float:
        # A group whose noise is not known, or that has no gradient at all, keeps its rate.
        if not math.isfinite(variance) or variance == squared_mean == 0:
            return 1.0
        limit = variance / _MAX_NOISE
        noise = variance / squared_mean if squared_mean > limit else _MAX_NOISE
        return self.alpha / math.sqrt(self.alpha**2 + noise)
