"""ScaleController: a policy, its memory, the scales that it set, and the log of it all."""

import math
from collections.abc import Sequence
from typing import Any

from lossatlas.errors import ArgumentError
from lossatlas.steering.log import DecisionRecord
from lossatlas.steering.rates import bounds
from lossatlas.steering.reading import Decision, Policy, Reading


class ScaleController:
    """Turns readings into scales; knows no optimizer.

    Args:
        policy: decides.
        min_ratio: smallest scale, one number or one a group.
        max_ratio: greatest scale, likewise.
        groups: how many there are; more may come.
        dry_run: keep the scales at 1, and log what they would be.

    Attributes:
        scales: of the rates, one a group.
        proposed: what they are, or would be in a dry run.
        records: the log.

    Raises:
        ArgumentError: bounds out of order or that do not match the groups.
    """

    def __init__(
        self, policy: Policy, min_ratio: Any, max_ratio: Any, groups: int, *, dry_run: bool
    ) -> None:
        self.policy, self.dry_run = policy, dry_run
        self._min = bounds("min_ratio", min_ratio, groups)
        self._max = bounds("max_ratio", max_ratio, groups)
        for index in range(max(len(self._min), len(self._max))):
            low, high = _at(self._min, index), _at(self._max, index)
            if not low <= high or math.isinf(low):
                raise ArgumentError(
                    f"`min_ratio` must be at most `max_ratio`; got {low:g} and {high:g}."
                )
        self.scales, self.proposed = [1.0] * groups, [1.0] * groups
        self.memory = policy.start()
        self.records: list[DecisionRecord] = []

    def extend(self, groups: int) -> None:
        """Make room for groups that are new; they start at a scale of 1."""
        self.scales.extend([1.0] * (groups - len(self.scales)))
        self.proposed.extend([1.0] * (groups - len(self.proposed)))

    def update(self, reading: Reading, scheduled: Sequence[float]) -> None:
        """Decide on a reading, set the scales and note it."""
        self.memory, decision = self.policy.decide(self.memory, reading)
        factors = decision.factors(len(self.proposed))
        self.proposed = [
            min(max(wanted, _at(self._min, i)), _at(self._max, i))
            for i, wanted in enumerate(_wanted(decision, self.proposed, factors))
        ]
        if not self.dry_run:
            self.scales = list(self.proposed)
        self._note(reading, factors, decision.reason, scheduled, failed=False)

    def learn(self, reading: Reading) -> None:
        """Let the policy take a reading in, and leave the scales and the log as they are."""
        self.memory, _ = self.policy.decide(self.memory, reading)

    def fail(self, step: int, message: str, scheduled: Sequence[float]) -> None:
        """Note that there is no reading; the scales stay."""
        blank = Reading(step=step, scale=tuple(self.proposed))
        ones = (1.0,) * len(self.proposed)
        self._note(blank, ones, f"probe failed: {message}", scheduled, failed=True)

    def _note(
        self,
        reading: Reading,
        factors: tuple[float, ...],
        reason: str,
        scheduled: Sequence[float],
        *,
        failed: bool,
    ) -> None:
        rates = tuple(r * s for r, s in zip(scheduled, self.scales, strict=True))
        self.records.append(
            DecisionRecord(reading, factors, reason, tuple(self.proposed), rates, failed)
        )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "policy": type(self.policy).__name__,
            "scales": list(self.scales),
            "proposed": list(self.proposed),
            "memory": dict(self.memory),
            "records": [record.to_dict() for record in self.records],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        name = type(self.policy).__name__
        if state["policy"] != name:
            raise ArgumentError(
                f"`state_dict` must be that of a LandscapeLR with {name}; got one with "
                f"{state['policy']}: build it as it was."
            )
        self.scales, self.proposed = list(state["scales"]), list(state["proposed"])
        self.memory = dict(state["memory"])
        self.records = [DecisionRecord.from_dict(row) for row in state["records"]]


def _wanted(
    decision: Decision, present: Sequence[float], factors: Sequence[float]
) -> list[float]:
    if decision.absolute:
        return list(factors)
    return [scale * factor for scale, factor in zip(present, factors, strict=True)]


def _at(several: list[float], index: int) -> float:
    return several[min(index, len(several) - 1)]
