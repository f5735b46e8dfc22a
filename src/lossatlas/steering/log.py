"""The log of decisions: what was read, what was decided and why, what the rates were."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas import io
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Result, chart_of, result
from lossatlas.steering.reading import Decision, Policy, Reading
from lossatlas.text import as_sentence, count, number, with_error

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

_SCALE = "scale of the rate"


@record
@dataclass(frozen=True)
class DecisionRecord:
    """One decision.

    Attributes:
        reading: what was measured.
        factors: what the policy gave, one number a group.
        reason: why.
        scales: of the rates after the decision, one a group; in a dry run what they would be.
        lr: of the next update, one rate a group.
        failed: whether the measurement failed; then `reason` says how.

    Examples:
        >>> DecisionRecord(Reading(5), (1.5,), "flat", (1.5,), (0.15,)).lr
        (0.15,)
    """

    reading: Reading
    factors: tuple[float, ...]
    reason: str
    scales: tuple[float, ...]
    lr: tuple[float, ...]
    failed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, for the state of a controller."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "DecisionRecord":
        """The inverse of `to_dict`; lists, as JSON has them, become tuples."""
        rows = {key: tuple(plain[key]) for key in ("factors", "scales", "lr")}
        return cls(**(dict(plain) | rows | {"reading": Reading.from_dict(plain["reading"])}))


@result("decision_log")
class DecisionLog(Result):
    """All decisions of a controller, in order.

    Attributes:
        records: one a decision.
        provenance: where the log comes from.

    Examples:
        >>> row = DecisionRecord(Reading(5), (1.5,), "flat", (1.5,), (0.15,))
        >>> log = DecisionLog((row,))
        >>> len(log), log.column("scale")
        (1, array([1.5]))
    """

    records: tuple[DecisionRecord, ...]
    provenance: io.Provenance = field(default_factory=io.Provenance)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> DecisionRecord:
        return self.records[index]

    def __iter__(self) -> Iterator[DecisionRecord]:
        return iter(self.records)

    def estimates(self) -> tuple[Estimate, ...]:
        """How many decisions and failed probes there are, and where the scale ended."""
        failed = sum(row.failed for row in self.records)
        out = [
            Estimate(len(self), 0.0, name="decisions"),
            Estimate(failed, 0.0, name="failed probes", is_minor=not failed),
        ]
        if self.records:
            last = self.records[-1].scales[0]
            out.append(Estimate(last, 0.0, name="last scale of the rate"))
        return tuple(out)

    def sentences(self) -> tuple[str, ...]:
        """How the scale has moved, and why."""
        if not self.records:
            return ("No decision was made.",)
        scales = self.column("scale").astype(float)
        reasons = Counter(row.reason for row in self.records if not row.failed).most_common(3)
        frequent = ", ".join(f"{reason} ({times})" for reason, times in reasons)
        decided, ends = count(len(self), "decision"), (scales.min(), scales.max())
        if ends[0] == ends[1]:
            out = [f"{decided} left the scale of the rate at {number(scales[-1])}."]
        else:
            out = [
                f"{decided} moved the scale of the rate between {number(ends[0])} and "
                f"{number(ends[1])}; it ended at {number(scales[-1])}."
            ]
        out += [as_sentence(f"the most frequent reasons: {frequent}")] if frequent else []
        failed = sum(row.failed for row in self.records)
        out += [f"{count(failed, 'probe')} failed."] if failed else []
        return tuple(out)

    def figures(self) -> tuple[Figure, ...]:
        """The scale after every decision, with raises, cuts and failed probes marked."""
        alt = " ".join(self.sentences())
        return (chart_of("decisions", "Decisions of the controller", self._chart, alt=alt),)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Layer, Line, marks

        steps, scales = self.column("step"), self.column("scale").astype(float)
        ways = self._ways(scales)
        kinds = (
            ("up", style.FILL, "triangle-up"),
            ("same", style.FAINT, "circle"),
            ("down", style.PATH, "triangle-down"),
            ("no reading", style.INK, "x"),
        )
        texts = np.array([_hover(row) for row in self.records], dtype=object)
        steady = Line(steps, scales, color=style.BASIN, is_steps=True, name=_SCALE)
        layers: list[Layer] = [steady]
        for way, (name, color, symbol) in enumerate(kinds):
            at = ways == way
            if at.any():
                points = marks(steps[at], scales[at], name, color, symbol)
                layers.append(replace(points, hover=texts[at]))
        wide = len(scales) and scales.min() > 0 and scales.max() > 10 * scales.min()
        title = count(len(self), "decision")
        y = Axis(_SCALE, is_log=bool(wide))
        return Chart(title, Axis("update"), y, tuple(layers))

    def _ways(self, scales: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        before = np.concatenate([[1.0], scales[:-1]])
        ways: np.ndarray[Any, Any] = 1 - np.sign(scales - before).astype(int)
        ways[self.column("failed").astype(bool)] = 3
        return ways

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One quantity over the decisions.

        Args:
            name: of a number of `Reading` ("step", "sharpness", ...), or "scale", "lr" and
                "factor" of the first group, "reason" or "failed".

        Returns:
            Shape (decisions,).
        """
        firsts = {"scale": "scales", "lr": "lr", "factor": "factors"}
        if name in firsts:
            return np.array([getattr(r, firsts[name])[0] for r in self.records])
        if name in {"reason", "failed"}:
            return np.array([getattr(r, name) for r in self.records])
        return np.array([getattr(r.reading, name) for r in self.records])

    def replay(self, policy: Policy) -> list[Decision]:
        """What a policy decides on the readings of this log.

        Args:
            policy: the one that made the log decides as it did; another one says what it would
                have done on these readings.

        Returns:
            One decision a reading that did not fail.
        """
        return replay(policy, [r.reading for r in self.records if not r.failed])


def replay(policy: Policy, readings: Sequence[Reading]) -> list[Decision]:
    """What a policy decides on some readings, from its start.

    Args:
        policy: any.
        readings: in order.

    Returns:
        One decision a reading.

    Examples:
        >>> from lossatlas.steering import EdgePolicy
        >>> [d.reason for d in replay(EdgePolicy(), [Reading(1, edge=0.5, edge_error=0.0)])]
        ['below the edge']
    """
    state, decisions = policy.start(), []
    for reading in readings:
        state, decision = policy.decide(state, reading)
        decisions.append(decision)
    return decisions


def _hover(row: DecisionRecord) -> str:
    seen = row.reading
    lines = [
        f"update {seen.step}: {row.reason}",
        f"scale {number(row.scales[0])}, rate {number(row.lr[0])}",
    ]
    for name in ("loss", "sharpness", "variability", "edge", "train_loss"):
        value = getattr(seen, name)
        if np.isfinite(value):
            error = getattr(seen, name.replace("_loss", "") + "_error")
            lines.append(f"{name.replace('_', ' ')} {with_error(value, error)}")
    return "\n".join(lines)
