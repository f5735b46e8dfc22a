"""Climb: as fast as the ground allows, from a timid start, whatever the base rate."""

import math
from dataclasses import dataclass
from typing import Any

from lossatlas.checks import check_at_least, check_positive
from lossatlas.steering.reading import Decision, Reading, State


@dataclass(frozen=True)
class GrowthPolicy:
    """Raise the rate while steps lead somewhere, fall back when the loss certainly rises.

    Steps that agree take the weights far for their length; steps that cancel do not. Of a
    walk of independent steps (with momentum beta) the distance from the start is the root of
    the sum of squared steps times (1 + beta) / (1 - beta). The scale is `scale` times the
    distance reached over that root, with steps measured at scale 1: where steps agree it grows
    from decision to decision, where they cancel it stays or falls. The base rate drops out.
    Meant to be read through a `PolynomialAverage`: the weights themselves bounce.

    Attributes:
        scale: greater is faster. Default 2.
        sgd_factor: share of the scale for optimizers whose steps are as long as the gradients
            (SGD); at the full scale they run off before the loss shows it. Default 0.4.
        initial_step: length of the first step over that of the weights. Default 1e-2.
        growth: most by which the scale grows at one decision. Default 1.5.
        tolerance: rise of the average training loss over its lowest, relative, that halves
            the scale for good. Default 0.3.
        spike: multiple of the average that does so at once, where the mean of a few batches
            is above it by two of its standard errors. Default 2.
        patience: decisions that the average spans, and between two falls. Default 8.
        every: steps between decisions. Default 4.

    Raises:
        ArgumentError: numbers not above zero.

    Source: ours; distance over gradients as in DoG, Ivgi et al., ICML 2023, arXiv:2302.12022,
        with the steps that the optimizer really makes instead of gradients.
    """

    scale: float = 2.0
    sgd_factor: float = 0.4
    initial_step: float = 1e-2
    growth: float = 1.5
    tolerance: float = 0.3
    spike: float = 2.0
    patience: int = 8
    every: int | None = 4

    needs = frozenset({"travel"})
    before = False
    limits = (0.0, math.inf)
    warmup = 0

    def __post_init__(self) -> None:
        for name in ("scale", "sgd_factor", "initial_step", "growth", "tolerance", "spike"):
            check_positive(name, getattr(self, name))
        check_at_least("patience", self.patience, 1)

    def start(self) -> State:
        """The memory before the first reading.

        Returns:
            No ceiling, no loss, no waiting.
        """
        return {"ceiling": math.inf, "average": None, "lowest": None, "wait": 0}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The scale of the next steps.

        Args:
            state: greatest scale that is allowed, average and lowest loss, decisions to wait.
            reading: reach, stride, momentum and scale; before the first step size and stride.
                The training loss, where it is watched, is what brakes.

        Returns:
            (state, decision).
        """
        if reading.step == 0:
            scale = (
                self.initial_step * reading.size / reading.stride if reading.stride > 0 else 1.0
            )
            return dict(state), Decision(scale or 1.0, "initial step", absolute=True)
        present, trouble = reading.scale[0], self._trouble(state, reading)
        after = self._remembered(state, reading)
        if trouble and state["wait"] == 0:
            after |= {"ceiling": present / 2, "wait": self.patience}
            return after, Decision(present / 2, trouble, absolute=True)
        walk = reading.stride * math.sqrt((1 + reading.momentum) / (1 - reading.momentum))
        scale = self.scale if reading.normalized else self.sgd_factor * self.scale
        wanted = scale * reading.reach / walk if walk > 0 else present
        scale = min(wanted, self.growth * present, state["ceiling"])
        reason = "climb" if scale > present else "ease"
        return after, Decision(scale, reason, absolute=True)

    def _trouble(self, state: State, reading: Reading) -> str:
        average, lowest = state["average"], state["lowest"]
        if not reading.train_count:
            return ""
        if not math.isfinite(reading.train_loss):
            return "loss not finite: fall back"
        if average is None:
            return ""
        error = reading.train_error if math.isfinite(reading.train_error) else 0.0
        if average > 0 and reading.train_loss - 2 * error > self.spike * average:
            return "loss leaps: fall back"
        rise = self.tolerance * abs(lowest)
        return "loss rises: fall back" if average > lowest + rise else ""

    def _remembered(self, state: State, reading: Reading) -> dict[str, Any]:
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
