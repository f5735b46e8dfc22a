"""The time of readings, and when the share of the training time allows another."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from lossatlas.curvature.costs import instrument_evaluations
from lossatlas.curvature.instrument import Instrument
from lossatlas.objective import Objective

LOSS = "loss"
# Expected loss evaluations of an instrument that does not state its cost: 100 Hessian products.
_UNSTATED = 600
# First readings take up to so many times what is expected of them: checks of derivatives and
# small networks, where Python takes the time.
_MARGIN = 2.0
# Seconds that a file takes which holds all readings, before one was written.
_FILE = 0.05


@dataclass
class Clock:
    """Seconds of training, of readings, and of each instrument."""

    training: float = 0.0
    monitoring: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    evaluation: float | None = None
    sending: float | None = None
    since: float | None = None
    # The update of the last tick, and how many were timed.
    at: int = 0
    timed: int = 0

    def begin(self, update: int) -> None:
        """Start counting at this update."""
        if self.since is None:
            self.tick(update)
        else:
            self.at = update - 1

    def tick(self, update: int) -> None:
        """Count the time since the last tick as training."""
        now = time.perf_counter()
        if self.since is not None:
            self.training += now - self.since
            self.timed += update - self.at
        self.since, self.at = now, update

    @property
    def pace(self) -> float:
        """Seconds per update; 0 before one was timed."""
        return self.training / self.timed if self.timed else 0.0

    def charge(self, costs: Mapping[str, float]) -> None:
        """Count the time since the last tick as readings."""
        now = time.perf_counter()
        taken = now - (now if self.since is None else self.since)
        self.monitoring += taken
        self.since = now
        self.sending = max(taken - sum(costs.values()), 0.0)
        self.evaluation = costs.get(LOSS, self.evaluation)
        # Writing and sending are shared out.
        rest = self.sending / max(len(costs), 1)
        for name, cost in costs.items():
            self.spent[name] = self.spent.get(name, 0.0) + cost + rest
            self.last[name] = cost + rest

    def affords(self, name: str, cost: float, share: float, parts: int) -> bool:
        """Whether one more reading stays within the share, and within its instrument's part."""
        return self.needed(name, cost, share, parts) <= self.training

    def needed(self, name: str, cost: float, share: float, parts: int) -> float:
        """Seconds of training after which one more reading is within the share."""
        own = (self.spent.get(name, 0.0) + cost) * parts
        return max(own, self.monitoring + cost) / share


class Costs:
    """Expected time of the next reading of each instrument.

    Args:
        objective: the objective to read.
        instruments: name -> instrument; None for the loss.
        files: number of files that store all readings.
    """

    def __init__(
        self,
        objective: Objective,
        instruments: Mapping[str, Instrument | None],
        files: int = 0,
    ) -> None:
        self._objective, self._files = objective, files
        # Evaluations of the loss, at most, by what instruments say.
        self._evaluations = {
            name: 1.0 if tool is None else instrument_evaluations([tool], objective)[1]
            for name, tool in instruments.items()
        }

    def first(self, clock: Clock) -> dict[str, float]:
        """Expected seconds of a first reading, by name."""
        each = self._evaluation(clock)
        sending = _FILE * self._files if clock.sending is None else clock.sending
        counts = {name: count or _UNSTATED for name, count in self._evaluations.items()}
        return {name: each * count + sending for name, count in counts.items()}

    def next(self, clock: Clock) -> dict[str, float]:
        """Expected seconds of the next reading, by name."""
        expected = self.first(clock)
        return {n: clock.last.get(n, _MARGIN * cost) for n, cost in expected.items()}

    def _evaluation(self, clock: Clock) -> float:
        # Measured by a reading, else at construction, else one update per batch.
        walked = self._objective.walk_seconds
        if clock.evaluation is not None:
            return clock.evaluation
        if walked is not None and walked[1] == self._objective.device:
            return walked[0]
        return (self._objective.count or 1) * clock.pace


def update_at(seconds: float, clock: Clock, every: int) -> int:
    """The next turn after `seconds` of training at the current pace; 0 if unknown."""
    if not clock.pace > 0:
        return 0
    later = max((seconds - clock.training) / clock.pace, 0.0)
    return every * max(math.ceil((clock.at + later) / every - 1e-9), clock.at // every + 1)
