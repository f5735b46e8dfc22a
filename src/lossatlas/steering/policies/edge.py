"""Edge of stability: keep the rate times the largest eigenvalue below its bound."""

import math
from dataclasses import dataclass

from lossatlas.checks import check_positive
from lossatlas.steering.reading import Decision, Reading, State


@dataclass(frozen=True)
class EdgePolicy:
    """Cut the rate where it times the largest eigenvalue passes a bound, and let it recover.

    Attributes:
        share: of the bound of stability 2 (1 + beta) / (1 - beta) that is used. Default 0.9.
        recovery: the most by which a scale grows at one decision. Default 1.5.

    Raises:
        ArgumentError: numbers not above zero.

    Source: bound: Cohen et al., ICLR 2021, arXiv:2103.00065 (momentum), and 2022,
        arXiv:2207.14484 (Adam: of the preconditioned Hessian).

    Examples:
        >>> from lossatlas.steering import replay
        >>> replay(EdgePolicy(), [Reading(1, edge=3.6, edge_error=0.0)])[0].factor
        0.5
    """

    share: float = 0.9
    recovery: float = 1.5

    needs = frozenset({"edge"})
    every = None
    before = False
    limits = (0.0, 1.0)
    warmup = 10

    def __post_init__(self) -> None:
        check_positive("share", self.share)
        check_positive("recovery", self.recovery)

    def start(self) -> State:
        """The memory before the first reading."""
        return {}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The factor that brings rate times curvature to the bound, where it is above."""
        if not math.isfinite(reading.edge):
            return {}, Decision(1.0, "no curvature read")
        limit = self.share * 2 * (1 + reading.momentum) / (1 - reading.momentum)
        upper = reading.edge + (reading.edge_error if reading.edge_error >= 0 else 0.0)
        factor = limit / upper if upper > 0 else math.inf
        if factor < 1:
            return {}, Decision(factor, f"rate x curvature {reading.edge:.3g} > {limit:.3g}")
        return {}, Decision(min(factor, self.recovery), "below the edge")
