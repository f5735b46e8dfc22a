"""MoMo: rates from a truncated linear model of the loss along the update."""

import math
from dataclasses import dataclass

from lossatlas.checks import check_number
from lossatlas.steering.reading import Decision, Reading, State


@dataclass(frozen=True)
class MoMoPolicy:
    """Truncated model-based rates for SGD with momentum and for Adam.

    The mean of the loss's past linearizations, cut off at the lowest loss that can be, is a
    model of the loss along the update. The step goes to where this model reaches the bound,
    at most as far as the scheduled rate goes: scale = min(1, gap / slope), where gap is the
    height of the model over the bound and slope its decrease along one full update, decay
    included. One scale for all groups, whatever their rates.

    Attributes:
        lower_bound: of the loss. Default 0.
        estimate_bound: raise the bound while training where the loss cannot reach it. Default
            False.

    Raises:
        ArgumentError: a bound that is not finite.

    Source: Schaipp et al., ICML 2024, arXiv:2305.07583, sec. 3 and 4. Their decay is a
        division, w / (1 + lr lam); here it is that of torch, part of the update.

    Examples:
        >>> from lossatlas.steering import replay
        >>> model = {"loss": 1.0, "gradient": 0.0, "average": 0.0, "slope": 4.0}
        >>> model |= {"beta": 0.0, "corrected": 1.0}
        >>> replay(MoMoPolicy(), [Reading(1, model=model)])[0].factor
        0.25
    """

    lower_bound: float = 0.0
    estimate_bound: bool = False

    needs = frozenset({"model"})
    every = 1
    before = True
    limits = (0.0, 1.0)
    warmup = 0

    def __post_init__(self) -> None:
        check_number("lower_bound", self.lower_bound)

    def start(self) -> State:
        """The memory before the first reading."""
        return {"loss": 0.0, "inner": 0.0, "bound": float(self.lower_bound), "count": 0}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The scale of this update."""
        model = reading.model
        if not all(math.isfinite(value) for value in model.values()):
            return dict(state), Decision(1.0, "loss or gradient not finite", absolute=True)
        count, is_corrected = state["count"] + 1, bool(model["corrected"])
        beta, slope, bound = model["beta"], model["slope"], state["bound"]
        past = beta if is_corrected or count > 1 else 0.0
        loss = past * state["loss"] + (1 - past) * model["loss"]
        inner = past * state["inner"] + (1 - past) * model["gradient"]
        # Adam's averages start at zero: their weights sum to rho.
        rho = 1 - beta**count if is_corrected else 1.0
        height = loss + model["average"] - inner
        if self.estimate_bound and height < rho * bound:
            bound = max(height / (2 * rho), self.lower_bound)
        gap = max(height - rho * bound, 0.0)
        scale = min(1.0, gap / slope) if slope > 0 else 1.0
        if self.estimate_bound:
            bound = max((height - 0.5 * scale * slope) / rho, self.lower_bound)
        after = {"loss": loss, "inner": inner, "bound": bound, "count": count}
        reason = "rate of the model" if scale < 1 else "scheduled rate"
        return after, Decision(scale, reason, absolute=True)
