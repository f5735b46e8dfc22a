"""Regimes: scale the rate by the sharpness and roughness of the loss around the weights."""

import math
from dataclasses import dataclass

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.steering.reading import Decision, Reading, State

COMPATIBLE = ("0.1.0",)


@dataclass(frozen=True)
class RegimePolicy:
    """Scale by what the loss around the weights looks like.

    | regime | sharpness | variability | factor |
    |---|---|---|---|
    | flat | < 0.1 | < 0.3 | 1.15 |
    | very sharp | > 0.5 | | 0.80 |
    | moderately sharp | > 0.2 | | 0.95 |
    | rough | | > 0.5 | 0.85 |
    | neutral | | | 1.00 |

    The first that fits counts. Whatever it says, a loss above twice its moving average (as it
    was before this reading) or one that is not finite brakes by 0.80.

    Attributes:
        compat: "0.1.0" takes the decisions of topoadamw 0.1.0 on the same readings: rough
            before moderately sharp, a brake on the average with this loss already in it, no
            hysteresis, and a loss that is not finite disables the brake for good.
        hysteresis: a factor counts when the same regime was read this often in a row; brakes
            count at once. 1 is none. Default 2. Without `compat` only.
        brake: multiple of the average. Default 2.
        smoothing: weight of a new loss in the average. Default 0.2.

    Raises:
        ArgumentError: numbers out of range.
        UnknownNameError: an unknown `compat`.

    Source: topoadamw 0.1.0 (README, table of regimes).

    Examples:
        >>> from lossatlas.steering import replay
        >>> flat = [Reading(step, loss=1.0, sharpness=0.0, variability=0.1) for step in (1, 2)]
        >>> [decision.factor for decision in replay(RegimePolicy(), flat)]
        [1.0, 1.15]
    """

    compat: str | None = None
    hysteresis: int = 2
    brake: float = 2.0
    smoothing: float = 0.2

    needs = frozenset({"probe"})
    every = None
    before = False
    limits = (0.2, 1.0)
    warmup = 150

    def __post_init__(self) -> None:
        if self.compat is not None:
            check_one_of("compat", self.compat, COMPATIBLE)
        check_at_least("hysteresis", self.hysteresis, 1)

    def start(self) -> State:
        """The memory before the first reading."""
        return {"average": None, "regime": "", "count": 0}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The factor of the regime."""
        if self.compat:
            return self._compatible(state, reading)
        return self._with_hysteresis(state, reading)

    def _with_hysteresis(self, state: State, reading: Reading) -> tuple[State, Decision]:
        average = state["average"]
        if not math.isfinite(reading.loss):
            return dict(state), Decision(0.80, "loss not finite: brake")
        if average is None:
            new_average = reading.loss
        else:
            new_average = (1 - self.smoothing) * average + self.smoothing * reading.loss
        if average is not None and average > 0 and reading.loss > self.brake * average:
            reason = f"loss above {self.brake:g} x its average: brake"
            after = {"average": new_average, "regime": "brake", "count": 1}
            return after, Decision(0.80, reason)
        regime, factor = _regime(reading)
        count = state["count"] + 1 if regime == state["regime"] else 1
        after = {"average": new_average, "regime": regime, "count": count}
        if count < self.hysteresis:
            return after, Decision(1.0, f"{regime}, not yet confirmed")
        return after, Decision(factor, regime)

    def _compatible(self, state: State, reading: Reading) -> tuple[State, Decision]:
        factor, reason = _compatible_factor(reading.sharpness, reading.variability)
        average = state["average"]
        # The sums are written as the original writes them: other orders round differently.
        new_average = reading.loss if average is None else 0.2 * reading.loss + 0.8 * average
        if reading.loss > new_average * 2.0:
            factor, reason = 0.8, "brake"
        # 0.95 passes the original's test |factor - 1| > 0.05 by rounding alone.
        applied = factor if abs(factor - 1.0) > 0.05 else 1.0
        return dict(state) | {"average": new_average}, Decision(applied, reason)


def _regime(reading: Reading) -> tuple[str, float]:
    sharpness, variability = reading.sharpness, reading.variability
    if reading.loss <= 0 or not (math.isfinite(sharpness) and math.isfinite(variability)):
        # Both indicators are relative to the loss; at or below zero they say nothing.
        return "no relative reading", 1.0
    if sharpness < 0.1 and variability < 0.3:
        return "flat", 1.15
    if sharpness > 0.5:
        return "very sharp", 0.80
    if sharpness > 0.2:
        return "moderately sharp", 0.95
    return ("rough", 0.85) if variability > 0.5 else ("neutral", 1.0)


def _compatible_factor(sharpness: float, variability: float) -> tuple[float, str]:
    if sharpness < 0.1 and variability < 0.3:
        return 1.15, "flat"
    if sharpness > 0.5:
        return 0.80, "very sharp"
    if variability > 0.5:
        return 0.85, "rough"
    return (0.95, "moderately sharp") if sharpness > 0.2 else (1.0, "neutral")
