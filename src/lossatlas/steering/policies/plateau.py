"""Stable, then down, without a horizon: the cooldown begins when certain progress ends."""

import math
from dataclasses import dataclass
from typing import Any

from lossatlas.checks import check_at_least, check_positive
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.reading import Decision, Reading, State
from lossatlas.steering.shapes import check_shape, shape_factor

# Windows kept; beyond that neighbors are merged in pairs, so that memory stays bounded.
_MOST = 128


@dataclass(frozen=True)
class PlateauCooldown:
    """Hold the rate until the training loss no longer certainly falls, then cool down.

    Progress is the fall of the mean loss from the last but one share of the steps so far to
    the last one; both windows grow with time, so nothing is measured in steps. It is certain
    by as much as it exceeds two of its standard errors.

    Attributes:
        threshold: certain progress, relative to the loss, below which it counts as ended.
            Default 0.01.
        window: share of the steps so far that each of the two windows spans. Default 0.2.
        length: of the cooldown, as a share of the steps before it. Default 0.25.
        shape: of the cooldown, see `lossatlas.steering.shapes`. Default "sqrt".
        end: scale at its end; the controller's `min_ratio` bounds it. Default 0.
        least: decisions before the first cooldown. Default 10.

    Raises:
        ArgumentError: numbers out of range.
        UnknownNameError: an unknown shape.
    """

    threshold: float = 0.01
    window: float = 0.2
    length: float = 0.25
    shape: str = "sqrt"
    end: float = 0.0
    least: int = 10

    needs = frozenset[str]()
    every = None
    before = False
    limits = (0.0, 1.0)
    warmup = 0

    def __post_init__(self) -> None:
        check_share("window", self.window)
        check_positive("window", self.window)
        check_positive("length", self.length)
        check_share("end", self.end)
        check_shape("shape", self.shape)
        check_at_least("least", self.least, 2)

    def start(self) -> State:
        """The memory before the first reading.

        Returns:
            No windows, not cooling.
        """
        return {"windows": [], "began": None}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """Hold, or the scale of the cooldown.

        Args:
            state: means of the training loss so far, the step at which the cooldown began.
            reading: step, train_loss, train_error and train_count.

        Returns:
            (state, decision).
        """
        windows = _with(state["windows"], reading)
        began = state["began"]
        if began is None and self._ended(windows, reading.step):
            began = reading.step
        after = {"windows": windows if began is None else [], "began": began}
        if began is None:
            return after, Decision(1.0, "progress", absolute=True)
        share = min((reading.step - began) / max(self.length * began, 1), 1.0)
        scale = shape_factor(self.shape, share, self.end)
        return after, Decision(scale, "cooldown" if share < 1 else "cooled down", absolute=True)

    def _ended(self, windows: list[list[float]], step: int) -> bool:
        if len(windows) < self.least:
            return False
        late = _mean([w for w in windows if w[0] > step * (1 - self.window)])
        early = _mean(
            [
                w
                for w in windows
                if step * (1 - 2 * self.window) < w[0] <= step * (1 - self.window)
            ]
        )
        if late is None or early is None:
            return False
        certain = early[0] - late[0] - 2 * math.hypot(early[1], late[1])
        return certain < self.threshold * abs(early[0])


def _with(windows: Any, reading: Reading) -> list[list[float]]:
    # Each window: last step, mean, standard error, batches.
    kept = [list(w) for w in windows]
    if reading.train_count and math.isfinite(reading.train_loss):
        error = reading.train_error if math.isfinite(reading.train_error) else 0.0
        kept.append([reading.step, reading.train_loss, error, reading.train_count])
    if len(kept) <= _MOST:
        return kept
    pairs = zip(kept[::2], kept[1::2], strict=False)
    merged = [[b[0], *_known([a, b]), a[3] + b[3]] for a, b in pairs]
    return merged + kept[2 * len(merged) :]


def _known(windows: list[list[float]]) -> tuple[float, float]:
    total = sum(w[3] for w in windows)
    mean = sum(w[1] * w[3] for w in windows) / total
    error = math.sqrt(sum((w[2] * w[3]) ** 2 for w in windows)) / total
    return mean, error


def _mean(windows: list[list[float]]) -> tuple[float, float] | None:
    return _known(windows) if windows else None
