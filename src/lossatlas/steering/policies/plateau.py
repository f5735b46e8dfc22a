"""Plateau: cool the rate down once the training loss no longer certainly falls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.cooldown import SHAPE_NAMES, CooldownShape, cooldown_factor
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.reading import Decision, Reading, State, known_error

# Windows of the loss; beyond that neighbors are merged in pairs, so that memory stays bounded.
_MAX_WINDOWS = 128


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
        decay: length of the cooldown, as a share of the steps before it. Default 0.25.
        shape: of the cooldown, see `lossatlas.cooldown`. Default "sqrt".
        min_ratio: scale at its end; the controller's own bounds it. Default 0.
        min_decisions: decisions before the first cooldown. Default 10.

    Raises:
        ArgumentError: numbers out of range.
        UnknownNameError: an unknown shape.

    Examples:
        >>> from lossatlas.steering import replay
        >>> flat = {"train_loss": 1.0, "train_error": 0.0, "train_count": 1}
        >>> seen = [Reading(step, **flat) for step in range(1, 12)]
        >>> replay(PlateauCooldown(), seen)[-1].reason
        'cooldown'
    """

    threshold: float = 0.01
    window: float = 0.2
    decay: float = 0.25
    shape: CooldownShape = "sqrt"
    min_ratio: float = 0.0
    min_decisions: int = 10

    needs = frozenset[str]()
    every = None
    before = False
    limits = (0.0, 1.0)
    warmup = 0
    replaces_schedule = True

    def __post_init__(self) -> None:
        check_share("window", self.window)
        check_positive("window", self.window)
        check_positive("decay", self.decay)
        check_share("min_ratio", self.min_ratio)
        check_one_of("shape", self.shape, SHAPE_NAMES)
        check_at_least("min_decisions", self.min_decisions, 2)

    def start(self) -> State:
        """The memory before the first reading."""
        return {"windows": [], "began": None}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """Hold, or the scale of the cooldown."""
        windows = _with_reading(state["windows"], reading)
        began = state["began"]
        if began is None and self._has_ended(windows, reading.step):
            began = reading.step
        if began is None:
            after = {"windows": windows, "began": None}
            return after, Decision(1.0, "progress", absolute=True)
        progress = min((reading.step - began) / max(self.decay * began, 1), 1.0)
        scale = cooldown_factor(self.shape, progress, self.min_ratio)
        reason = "cooldown" if progress < 1 else "cooled down"
        return {"windows": [], "began": began}, Decision(scale, reason, absolute=True)

    def _has_ended(self, windows: list[list[float]], step: int) -> bool:
        if len(windows) < self.min_decisions:
            return False
        middle, start = step * (1 - self.window), step * (1 - 2 * self.window)
        late = [window for window in windows if window[0] > middle]
        early = [window for window in windows if start < window[0] <= middle]
        if not late or not early:
            return False
        (late_mean, late_error), (early_mean, early_error) = _pooled(late), _pooled(early)
        progress = early_mean - late_mean - 2 * math.hypot(early_error, late_error)
        return progress < self.threshold * abs(early_mean)


def _with_reading(windows: Sequence[Sequence[float]], reading: Reading) -> list[list[float]]:
    # Each window: last step, mean, standard error, batches.
    longer = [list(window) for window in windows]
    if reading.train_count and math.isfinite(reading.train_loss):
        error = known_error(reading.train_error)
        longer.append([reading.step, reading.train_loss, error, reading.train_count])
    if len(longer) <= _MAX_WINDOWS:
        return longer
    pairs = zip(longer[::2], longer[1::2], strict=False)
    merged = [
        [second[0], *_pooled([first, second]), first[3] + second[3]] for first, second in pairs
    ]
    return merged + longer[2 * len(merged) :]


def _pooled(windows: list[list[float]]) -> tuple[float, float]:
    """Mean and standard error over all batches of some windows."""
    total = sum(batches for *_, batches in windows)
    mean = sum(mean * batches for _, mean, _, batches in windows) / total
    error = math.sqrt(sum((error * batches) ** 2 for *_, error, batches in windows)) / total
    return mean, error
