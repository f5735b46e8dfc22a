"""What a monitor has read: quantities over the steps of a training, with their errors."""

import math
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_one_of
from lossatlas.io import Provenance
from lossatlas.result import Estimate, Figure, Result, chart_of, quantity, result
from lossatlas.text import as_sentence, count, cut_off, duration, number, percent

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart, Layer

Floats = NDArray[np.float64]
# Of a normal law, two-sided, 95 %.
_WIDE = 1.96
_MOST_SENTENCES = 8


@result("monitor-log")
class MonitorLog(Result):
    """Readings of instruments along a training.

    Attributes:
        steps: (n,) updates done at each reading.
        names: (q,) of the quantities.
        instruments: (q,) the instrument of each.
        units: (q,) of each; empty for none.
        values: (n, q) NaN where a quantity was not read.
        errors: (n, q) standard errors, or bounds; NaN where unknown.
        bounded: (q,) whether the error of a quantity is a bound.
        reasons: (q,) why a quantity has no error, as far as it has none.
        share: of the time that monitoring may take; NaN where it is not limited.
        training_seconds: wall time of the training, without the readings.
        monitoring_seconds: wall time of the readings.
        updates: done when the times were last taken.
        costs: instrument -> seconds of its last reading.
        expected: instrument that was not read -> seconds that a first reading is expected to
            take.
        due: instrument -> update from which on the share allows its next reading, at the pace
            so far.
        turns: times at which readings were due.
        skipped: instrument -> turns that were left out to hold the share.
        missing: instrument -> why it could not be measured when it was last tried.
        minor: names that short tables leave out.
        meanings: (q,) what each quantity says, as of its last reading (the edge of stability
            beside the product, which statistics normalization layers used); empty for none.
        provenance: where the log comes from.
    """

    steps: NDArray[np.int64]
    names: tuple[str, ...]
    instruments: tuple[str, ...]
    units: tuple[str, ...]
    values: Floats
    errors: Floats
    bounded: tuple[bool, ...]
    reasons: tuple[str, ...]
    share: float = math.nan
    training_seconds: float = quantity("s", default=0.0)
    monitoring_seconds: float = quantity("s", default=0.0)
    updates: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    due: Mapping[str, int] = field(default_factory=dict)
    turns: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    minor: tuple[str, ...] = ()
    meanings: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def overhead(self) -> float:
        """Time of the readings over that of the training without them; NaN before any."""
        if not self.training_seconds:
            return math.nan
        return self.monitoring_seconds / self.training_seconds

    def series(self, name: str) -> tuple[NDArray[np.int64], Floats, Floats]:
        """One quantity over the steps at which it was read.

        Args:
            name: of `names`.

        Returns:
            (steps, values, errors).

        Raises:
            UnknownNameError: no such quantity.
        """
        check_one_of("name", name, self.names)
        at = self.names.index(name)
        read = ~np.isnan(self.values[:, at])
        return self.steps[read], self.values[read, at], self.errors[read, at]

    def estimates(self) -> tuple[Estimate, ...]:
        """The last reading of every quantity, and the share of the time."""
        why = "a ratio of two measured times"
        cost = Estimate(self.overhead, why_no_error=why, name="monitoring over training time")
        return (*(self._last(name) for name in self.names), cost)

    def _last(self, name: str) -> Estimate:
        at = self.names.index(name)
        _, values, errors = self.series(name)
        value, error = (
            (float(values[-1]), float(errors[-1])) if len(values) else (math.nan,) * 2
        )
        bound, stderr = (error, math.nan) if self.bounded[at] else (math.nan, error)
        why = None if math.isfinite(error) else self.reasons[at] or "not read yet"
        return Estimate(
            value, stderr, bound=bound, why_no_error=why, name=name, unit=self.units[at],
            is_minor=name in self.minor, meaning=self.meaning(name),
        )  # fmt: skip

    def meaning(self, name: str) -> str:
        """What a quantity says, as of its last reading.

        Args:
            name: of `names`.

        Returns:
            A remark; empty where there is none.
        """
        return self.meanings[self.names.index(name)] if self.meanings else ""

    def headline(self) -> str:
        """How many readings there are, and what they cost."""
        if not len(self):
            return "Nothing was read yet."
        first, last = (f"{int(self.steps[at]):,}" for at in (0, -1))
        span = f"update {first}" if len(self) == 1 else f"updates {first} to {last}"
        cost = ""
        if math.isfinite(self.overhead):
            limit = "" if math.isnan(self.share) else f", at most {percent(self.share)} allowed"
            taken = _seconds(self.monitoring_seconds)
            cost = f": {taken}, {percent(self.overhead)} of the training time{limit}"
        return f"{count(len(self), 'reading')} at {span}{cost}."

    def sentences(self) -> tuple[str, ...]:
        """The cost, the course of the chief quantities, what was left out and why."""
        chief = [name for name in self.names if name not in self.minor]
        said = [self._course(name) for name in chief[:_MOST_SENTENCES]]
        left_out = [
            f"{name} at {times:,} of {count(self.turns, 'turn')}"
            for name, times in self.skipped.items()
            if times
        ]
        if left_out:
            said.append(f"Readings left out to save time: {', '.join(left_out)}.")
        said += [self._next_readings(), self._overdrawn(), self._waiting()]
        said += [
            as_sentence(f"{name} could not be measured: {cut_off(why, 200)}")
            for name, why in self.missing.items()
        ]
        return (self.headline(), *filter(None, said))

    def _next_readings(self) -> str:
        parts = [
            f"{name} {_seconds(cost)} (next at about update {self.due[name]:,})"
            for name, cost in self.costs.items()
            if name in self.due
        ]
        return f"Time that a reading takes: {', '.join(parts)}." if parts else ""

    def _overdrawn(self) -> str:
        if not self.overhead > self.share or not self.updates:
            return ""
        update = math.ceil(self.updates * self.overhead / self.share)
        return (
            "So far readings took a larger share of the time than allowed; without further "
            f"ones they are within it from about update {update:,} on."
        )

    def _waiting(self) -> str:
        parts = [
            f"{name} ({_seconds(cost)}"
            + (f", from about update {self.due[name]:,} on)" if name in self.due else ")")
            for name, cost in self.expected.items()
        ]
        if math.isnan(self.share) or not parts:
            return ""
        instruments = len(self.costs) + len(self.expected)
        allowed = self.share * self.training_seconds / instruments
        return (
            f"Not read yet, with the time that a first reading probably takes: "
            f"{', '.join(parts)}. An instrument is first read when twice that time fits into "
            f"its part of the allowed time, which is {_seconds(allowed)} after "
            f"{count(self.updates, 'update')}. A larger `share` or fewer batches bring it "
            "forward, `share=None` reads at every turn, `read()` at once."
        )

    def _course(self, name: str) -> str:
        steps, values, errors = self.series(name)
        if len(values) < 2 or not np.isfinite([values[0], values[-1]]).all():
            return ""
        first, last = values[0], values[-1]
        gap = _WIDE * math.hypot(errors[0], errors[-1])
        start = f"{number(first, 3)} at update {int(steps[0]):,}"
        end = f"{number(last, 3)} at {int(steps[-1]):,}"
        meaning = f" ({self.meaning(name)})" if self.meaning(name) else ""
        if math.isfinite(gap) and abs(last - first) <= gap:
            return (
                f"{_capital(name)} was {start} and {end}{meaning}; errors as large as theirs "
                "can make this difference."
            )
        verb = "rose" if last > first else "fell"
        return f"{_capital(name)} {verb} from {start} to {end}{meaning}."

    def figures(self) -> tuple[Figure, ...]:
        """Every quantity over the steps, with its 95 % interval or its bound."""
        caption = "Bands: 95 % intervals, or bounds."
        return tuple(
            chart_of(
                name, f"{_capital(name)} along the training",
                partial(self._chart, name), caption=caption, alt=self._course(name),
                is_minor=name in self.minor,
            )
            for name in self.names
            if len(self.series(name)[0])
        )  # fmt: skip

    def _chart(self, name: str) -> "Chart":
        from lossatlas.plots.chart import Axis, Chart, band, curve, marks

        at = self.names.index(name)
        steps, values, errors = self.series(name)
        finite = np.isfinite(values)
        steps, values, errors = steps[finite], values[finite], errors[finite]
        layers: list[Layer] = []
        if np.isfinite(errors).any():
            half = np.nan_to_num(errors) * (1.0 if self.bounded[at] else _WIDE)
            word = "bound" if self.bounded[at] else "95 % interval"
            layers.append(band(steps, values - half, values + half, word))
        layers += [curve(steps, values, name), marks(steps, values)]
        title = f"{name} ({self.units[at]})" if self.units[at] else name
        return Chart(name, Axis("update"), Axis(title), tuple(layers))

    def details(self) -> dict[str, Any]:
        """Steps of the readings and what was left out."""
        return {"steps": self.steps.tolist(), "skipped": dict(self.skipped)}


def _seconds(value: float) -> str:
    return duration(value) if value >= 10 else f"{number(value, 2)} s"


def _capital(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"
