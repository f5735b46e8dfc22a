"""The log of decisions: what was read, what was decided and why, what the rates were."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from lossatlas import store
from lossatlas.steering.reading import Decision, Policy, Reading


@dataclass(frozen=True)
class Record:
    """One decision.

    Attributes:
        reading: what was measured.
        factors: what the policy gave, one number a group.
        reason: why.
        scales: of the rates after the decision, one a group; in a dry run what they would be.
        rates: of the next update, one a group.
        failed: whether the measurement failed; then `reason` says how.
    """

    reading: Reading
    factors: tuple[float, ...]
    reason: str
    scales: tuple[float, ...]
    rates: tuple[float, ...]
    failed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values.

        Returns:
            name -> number, text or list.
        """
        return {
            "reading": self.reading.to_dict(),
            "factors": list(self.factors),
            "reason": self.reason,
            "scales": list(self.scales),
            "rates": list(self.rates),
            "failed": self.failed,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Record":
        """The inverse of `to_dict`.

        Args:
            plain: what it gave.

        Returns:
            An equal record.
        """
        return cls(
            Reading.from_dict(plain["reading"]),
            tuple(plain["factors"]),
            plain["reason"],
            tuple(plain["scales"]),
            tuple(plain["rates"]),
            plain["failed"],
        )


@store.kind("decision_log")
@dataclass(frozen=True)
class DecisionLog:
    """All decisions of a controller, in order.

    Attributes:
        records: one a decision.
        provenance: where the log comes from.
    """

    records: tuple[Record, ...]
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def __len__(self) -> int:
        """How many decisions there are.

        Returns:
            Their number.
        """
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        """The decisions in order.

        Returns:
            An iterator.
        """
        return iter(self.records)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One quantity over the decisions.

        Args:
            name: of a number of `Reading` ("step", "sharpness", ...), or "scale", "rate" and
                "factor" of the first group, "reason" or "failed".

        Returns:
            Shape (decisions,).
        """
        firsts = {"scale": "scales", "rate": "rates", "factor": "factors"}
        if name in firsts:
            return np.array([getattr(r, firsts[name])[0] for r in self.records])
        if name in {"reason", "failed"}:
            return np.array([getattr(r, name) for r in self.records])
        return np.array([getattr(r.reading, name) for r in self.records])

    def replay(self, policy: Policy) -> list[Decision]:
        """What a policy decides on the readings of this log.

        Args:
            policy: the one that made the log decides as it did; another one says what it would
                have done on this ground.

        Returns:
            One decision a reading that did not fail.
        """
        return replay(policy, [r.reading for r in self.records if not r.failed])

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The log as labeled arrays.

        Returns:
            group name -> Dataset.
        """
        groups = max((len(r.scales) for r in self.records), default=0)

        def table(rows: list[tuple[float, ...]]) -> Any:
            full = [(*row, *(np.nan,) * (groups - len(row))) for row in rows]
            return ("decision", "group"), np.array(full, dtype=float).reshape(len(rows), groups)

        rows = [json.dumps(r.to_dict()) for r in self.records]
        data = xr.Dataset(
            {
                "step": ("decision", self.column("step").astype(np.int64)),
                "scale": table([r.scales for r in self.records]),
                "rate": table([r.rates for r in self.records]),
                "reason": (
                    "decision",
                    np.array([r.reason for r in self.records], dtype=object),
                ),
                "record": ("decision", np.array(rows, dtype=object)),
            },
            attrs={"provenance": self.provenance.to_json()},
        )
        return {"decisions": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "DecisionLog":
        """The inverse of `to_tree`.

        Args:
            tree: what it gave.

        Returns:
            An equal log.
        """
        data = tree["decisions"]
        records = [Record.from_dict(json.loads(str(row))) for row in data["record"].values]
        return cls(tuple(records), store.Provenance.from_json(data.attrs["provenance"]))


def replay(policy: Policy, readings: Sequence[Reading]) -> list[Decision]:
    """What a policy decides on some readings, from its start.

    Args:
        policy: any.
        readings: in order.

    Returns:
        One decision a reading.
    """
    state, decisions = policy.start(), []
    for reading in readings:
        state, decision = policy.decide(state, reading)
        decisions.append(decision)
    return decisions
