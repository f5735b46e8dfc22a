"""Growth: raise the rate while steps lead somewhere, fall back when the loss rises."""

import math
from dataclasses import dataclass
from typing import Any

from lossatlas.checks import check_at_least, check_number, check_positive
from lossatlas.steering.reading import Decision, Reading, State, known_error

# Validation losses in a row above the lowest one that count as overfitting.
_OVERFIT_RISES = 2
# Share of the first loss by which the loss has to fall before growth is unlimited.
_PROVEN_FALL = 0.02
# A scale this many times the first one is worth a warning, from this many updates on.
_WARN_GROWTH, _WARN_STEP = 16.0, 64
VALID_RISES = "validation loss rises: fall back"
UNPROVEN_RAISE = "raise, though the loss has not fallen"


@dataclass(frozen=True)
class GrowthPolicy:
    """Raise the rate while steps lead somewhere, fall back when the loss certainly rises.

    Steps that agree take the weights far for their length; steps that cancel do not. Of a
    walk of independent steps (with momentum beta) the distance from the start is the root of
    the sum of squared steps times (1 + beta) / (1 - beta). The scale is `scale` times the
    distance over that root, with steps measured at scale 1: where steps agree it grows
    from decision to decision, where they cancel it stays or falls. The base rate drops out.
    Meant to be read through a `PolynomialAverage`: the weights themselves bounce.

    Attributes:
        scale: greater is faster. Default 2.
        sgd_factor: share of the scale for optimizers whose steps are as long as the gradients
            (SGD); at the full scale they run off before the loss shows it. Default 0.4.
        initial_step: length of the first step over that of the weights. Default 1e-2.
        growth: most by which the scale grows at one decision. Default 1.5.
        unproven_growth: most by which it grows over the first scale before the training loss
            has certainly fallen. Default infinite. Small transformers often begin on a plateau,
            where the rate climbs though steps lead nowhere yet: take 4 there. Not used where no
            loss is told.
        tolerance: rise of the average training loss over its lowest, relative, that halves
            the scale for good. Default 0.3.
        spike: multiple of the average that does so at once, where the mean of a few batches
            is above it by two of its standard errors. Default 2.
        patience: decisions that the average spans, and between two falls. Default 8.
        every: steps between decisions. Default 4.
        valid_tolerance: rise of the validation loss over its lowest, relative, that counts as
            overfitting; two in a row halve the scale for good. Default 0.01. Needs
            `controller.step(..., validation=)`.

    Raises:
        ArgumentError: numbers not above zero.

    Source: ours; distance over gradients as in DoG, Ivgi et al., ICML 2023, arXiv:2302.12022,
        with the steps that the optimizer really makes instead of gradients.

    Examples:
        >>> from lossatlas.steering import replay
        >>> first = Reading(0, size=10.0, step_length=0.5)
        >>> replay(GrowthPolicy(), [first])[0].factor
        0.2
    """

    scale: float = 2.0
    sgd_factor: float = 0.4
    initial_step: float = 1e-2
    growth: float = 1.5
    unproven_growth: float = math.inf
    tolerance: float = 0.3
    spike: float = 2.0
    patience: int = 8
    every: int | None = 4
    valid_tolerance: float = 0.01

    needs = frozenset({"distance"})
    before = False
    limits = (0.0, math.inf)
    warmup = 0
    replaces_schedule = True

    def __post_init__(self) -> None:
        for name in ("scale", "sgd_factor", "initial_step", "growth", "tolerance", "spike"):
            check_positive(name, getattr(self, name))
        if self.unproven_growth != math.inf:
            check_number("unproven_growth", self.unproven_growth, 1)
        check_number("valid_tolerance", self.valid_tolerance, 0)
        check_at_least("patience", self.patience, 1)

    def start(self) -> State:
        """The memory before the first reading."""
        empty = {"average": None, "lowest": None, "wait": 0, "valid": None, "rises": 0}
        return {"ceiling": math.inf, "first": None, "opening": None} | empty

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The scale of the next steps."""
        if reading.step == 0:
            return self._first_decision(state, reading)
        after = self._with_train_loss(state, reading) | self._with_valid_loss(state, reading)
        after |= self._with_proof(after, reading)
        overfits = after["rises"] >= _OVERFIT_RISES
        if overfits:
            after["rises"] = 0
        trouble = VALID_RISES if overfits else self._trouble(state, reading)
        if trouble and (overfits or state["wait"] == 0):
            ceiling = reading.scale[0] / 2
            after |= {"ceiling": ceiling, "wait": self.patience}
            return after, Decision(ceiling, trouble, absolute=True)
        return after, self._grown(after, reading)

    def _first_decision(self, state: State, reading: Reading) -> tuple[State, Decision]:
        scale = 1.0
        if reading.step_length > 0:
            scale = self.initial_step * reading.size / reading.step_length or 1.0
        return dict(state) | {"opening": scale}, Decision(scale, "initial step", absolute=True)

    def _grown(self, state: State, reading: Reading) -> Decision:
        present, opening = reading.scale[0], state.get("opening")
        random_walk = reading.step_length * math.sqrt(
            (1 + reading.momentum) / (1 - reading.momentum)
        )
        factor = self.scale if reading.normalized else self.sgd_factor * self.scale
        target = factor * reading.distance / random_walk if random_walk > 0 else present
        scale = min(target, self.growth * present, state["ceiling"])
        if opening is not None and scale > self.unproven_growth * opening:
            limit = self.unproven_growth * opening
            return Decision(limit, "hold: the loss has not fallen", absolute=True)
        reason = "raise" if scale > present else "lower"
        far = opening is not None and scale > max(present, _WARN_GROWTH * opening)
        if far and reading.step >= _WARN_STEP:
            reason = UNPROVEN_RAISE
        return Decision(scale, reason, absolute=True)

    def _with_proof(self, state: State, reading: Reading) -> dict[str, Any]:
        # The first scale limits growth until the loss has certainly fallen, if a loss is told.
        average, first = state["average"], state.get("first")
        if average is None:
            return {} if reading.train_count else {"opening": None}
        if first is None:
            return {"first": [average, known_error(reading.train_error)]}
        level, error = first
        has_fallen = average < level - 3 * error - _PROVEN_FALL * abs(level)
        return {"opening": None} if has_fallen else {}

    def _with_valid_loss(self, state: State, reading: Reading) -> dict[str, Any]:
        loss, lowest = reading.valid_loss, state["valid"]
        if not math.isfinite(loss):
            return {}
        if lowest is None or loss < lowest:
            return {"valid": loss, "rises": 0}
        has_risen = loss > lowest + self.valid_tolerance * abs(lowest)
        return {"rises": state["rises"] + 1 if has_risen else 0}

    def _with_train_loss(self, state: State, reading: Reading) -> dict[str, Any]:
        after = dict(state) | {"wait": max(state["wait"] - 1, 0)}
        if not reading.train_count or not math.isfinite(reading.train_loss):
            return after
        before = state["average"]
        if before is None:
            return after | {"average": reading.train_loss, "lowest": reading.train_loss}
        average = before + (reading.train_loss - before) / self.patience
        # The lowest loss is forgotten slowly: what was reached once may have been luck.
        lowest = min(average, state["lowest"] + 0.02 * (average - state["lowest"]))
        return after | {"average": average, "lowest": lowest}

    def _trouble(self, state: State, reading: Reading) -> str:
        """Why the training loss asks for a lower rate; empty where it does not."""
        average, lowest = state["average"], state["lowest"]
        if not reading.train_count:
            return ""
        if not math.isfinite(reading.train_loss):
            return "loss not finite: fall back"
        if average is None:
            return ""
        certain = reading.train_loss - 2 * known_error(reading.train_error)
        if average > 0 and certain > self.spike * average:
            return "loss leaps: fall back"
        rise = self.tolerance * abs(lowest)
        return "loss rises: fall back" if average > lowest + rise else ""
