"""Readings of a monitor: quantities over training steps, with errors."""

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
    """Readings of instruments during training.

    Attributes:
        steps: (n,) number of updates at each reading.
        names: (q,) names of the quantities.
        instruments: (q,) instrument of each quantity.
        units: (q,) unit of each quantity; empty for none.
        values: (n, q) values; NaN where a quantity was not read.
        errors: (n, q) standard errors, or bounds; NaN where unknown.
        bounded: (q,) whether the error of a quantity is a bound.
        reasons: (q,) why a quantity has no error, if it has none.
        share: allowed share of the training time; NaN if unlimited.
        training_seconds: wall time of the training, without the readings.
        monitoring_seconds: wall time of the readings.
        updates: number of updates when the times were last measured.
        costs: instrument -> seconds of its last reading.
        expected: expected seconds of a first reading, of instruments not read yet.
        due: instrument -> update from which the share allows its next reading, at the pace so
            far.
        turns: number of times readings were due.
        skipped: instrument -> number of turns skipped to stay within the share.
        missing: instrument -> why its last reading failed.
        minor: names omitted from short tables.
        meanings: (q,) remark on each quantity at its last reading (for example the edge of
            stability, or the statistics used by normalization layers); empty for none.
        provenance: provenance of the log.
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
        """Time of readings divided by the training time without them; NaN if there are none."""
        if not self.training_seconds:
            return math.nan
        return self.monitoring_seconds / self.training_seconds

    def series(self, name: str) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Values of one quantity at the steps at which it was read.

        Args:
            name: one of `names`.

        Returns:
            (steps, values, errors).

        Raises:
            UnknownNameError: there is no such quantity.
        """
        check_one_of("name", name, self.names)
        at = self.names.index(name)
        read = ~np.isnan(self.values[:, at])
        return self.steps[read], self.values[read, at], self.errors[read, at]

    def estimates(self) -> tuple[Estimate, ...]:
        """The last reading of every quantity, and the overhead."""
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
        """Remark on a quantity at its last reading.

        Args:
            name: one of `names`.

        Returns:
            The remark, or an empty string.
        """
        return self.meanings[self.names.index(name)] if self.meanings else ""

    def headline(self) -> str:
        """The course of the first quantity; without one the number of readings."""
        if not len(self):
            return "No readings yet."
        return next(filter(None, self._courses()), self._readings())

    def _readings(self) -> str:
        first, last = (f"{int(self.steps[at]):,}" for at in (0, -1))
        span = f"update {first}" if len(self) == 1 else f"updates {first} to {last}"
        return f"{count(len(self), 'reading')} at {span}{self._cost()}."

    def _cost(self) -> str:
        if not math.isfinite(self.overhead):
            return ""
        taken = _seconds(self.monitoring_seconds)
        text = f": {taken} beside {_seconds(self.training_seconds)} of training"
        if math.isnan(self.share):
            return text
        return f"{text}, {percent(self.overhead)}; at most {percent(self.share)} is allowed"

    def _courses(self) -> list[str]:
        chief = [name for name in self.names if name not in self.minor]
        return [self._course(name) for name in chief[:_MOST_SENTENCES]]

    def sentences(self) -> tuple[str, ...]:
        """Changes of the main quantities, cost of the readings, and skipped readings."""
        readings = self._readings() if len(self) else self.headline()
        sentences = [*self._courses(), readings]
        left_out = [
            f"{name} at {times:,} of {count(self.turns, 'turn')}"
            for name, times in self.skipped.items()
            if times
        ]
        if left_out:
            sentences.append(f"Readings skipped to save time: {', '.join(left_out)}.")
        sentences += [self._next_readings(), self._overdrawn(), self._waiting()]
        sentences += [
            as_sentence(f"{name} could not be measured: {cut_off(why, 200)}")
            for name, why in self.missing.items()
        ]
        return tuple(filter(None, sentences))

    def _next_readings(self) -> str:
        parts = [
            f"{name} {_seconds(cost)} (next at about update {self.due[name]:,})"
            for name, cost in self.costs.items()
            if name in self.due
        ]
        return f"Time per reading: {', '.join(parts)}." if parts else ""

    def _overdrawn(self) -> str:
        if not self.overhead > self.share or not self.updates:
            return ""
        update = math.ceil(self.updates * self.overhead / self.share)
        return (
            "So far readings took more than the allowed share of the time; without further "
            f"readings they are within it from about update {update:,}."
        )

    def _waiting(self) -> str:
        parts = [
            f"{name} ({_seconds(cost)}"
            + (f", from about update {self.due[name]:,})" if name in self.due else ")")
            for name, cost in self.expected.items()
        ]
        if math.isnan(self.share) or not parts:
            return ""
        instruments = len(self.costs) + len(self.expected)
        allowed = self.share * self.training_seconds / instruments
        return (
            f"Not read yet, with the expected time of a first reading: {', '.join(parts)}. An "
            "instrument is first read when twice that time fits into its part of the allowed "
            f"time, which is {_seconds(allowed)} after {count(self.updates, 'update')}. To "
            "read earlier, use a larger `share` or fewer batches; `share=None` reads at every "
            "turn, `read()` immediately."
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
                f"{_capital(name)} was {start} and {end}{meaning}; this difference is within "
                "their errors."
            )
        verb = "rose" if last > first else "fell"
        return f"{_capital(name)} {verb} from {start} to {end}{meaning}."

    def figures(self) -> tuple[Figure, ...]:
        """Every quantity over the steps, with its 95 % interval or bound."""
        caption = "Bands: 95 % intervals, or bounds."
        return tuple(
            chart_of(
                name, _capital(name),
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
        """Steps of the readings, and skipped readings."""
        return {"steps": self.steps.tolist(), "skipped": dict(self.skipped)}


def _seconds(value: float) -> str:
    return duration(value) if value >= 10 else f"{number(value, 2)} s"


def _capital(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"
