"""Noise: slower where the gradient of a group is noisier than that of the others."""

import math
from dataclasses import dataclass

from lossatlas.checks import check_positive
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.reading import Decision, Reading, State


@dataclass(frozen=True)
class NoisePolicy:
    """Rates of groups (layers, see `layer_groups`) by the noise of their gradients.

    The least noisy group keeps its rate; the others get sqrt(a / max a) of theirs, with
    a = alpha / sqrt(alpha^2 + noise).

    Attributes:
        alpha: noise (variance over squared mean) at which it begins to count. Default 1.
        smoothing: share of the old noise in its average. Default 0.9.
        every: steps between readings; each takes the gradients of two updates in a row.
            Default 10.

    Raises:
        ArgumentError: numbers out of range.

    Source: the form of LANTON, arXiv:2510.14009, with noise relative to the gradient, since
        adaptive optimizers divide its units out. The paper's norms are those of Muon.
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
        """The memory before the first reading.

        Returns:
            No noise known.
        """
        return {"noise": []}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """One scale a group.

        Args:
            state: average noise of each group.
            reading: noise counts; groups whose noise is not known keep their average.

        Returns:
            (state, decision).
        """
        before = list(state["noise"])
        before += [math.nan] * (len(reading.noise) - len(before))
        after = [self._mixed(old, new) for old, new in zip(before, reading.noise, strict=True)]
        shares = [
            self.alpha / math.sqrt(self.alpha**2 + h) if math.isfinite(h) else 1.0
            for h in after
        ]
        if not shares:
            return {"noise": after}, Decision(1.0, "no noise read", absolute=True)
        most = max(shares)
        scales = tuple(math.sqrt(a / most) for a in shares)
        return {"noise": after}, Decision(scales, "noise of groups", absolute=True)

    def _mixed(self, old: float, new: float) -> float:
        if not math.isfinite(new):
            return old
        return self.smoothing * old + (1 - self.smoothing) * new if math.isfinite(old) else new
