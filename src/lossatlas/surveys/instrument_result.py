"""What one instrument of a survey found: its results whole, and the numbers in them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lossatlas.curvature.trees import Stored, part
from lossatlas.result import Estimate
from lossatlas.store import kind


@dataclass(frozen=True)
class Quantity:
    """One number of a finding with its error, or the reason why it has none.

    Attributes:
        name: what it is.
        value: the number.
        stderr: its standard error, same units; NaN where there is none.
        why: the reason where there is none.
        unit: of both.
        meaning: what it says, for a reader who has not met it.
        is_bound: whether the error is a bound, not a standard error.
        is_minor: whether it belongs to the page and the file, and not into a short table.
    """

    name: str
    value: float
    stderr: float = math.nan
    why: str = ""
    unit: str = ""
    meaning: str = ""
    is_bound: bool = False
    is_minor: bool = False


def estimated(name: str, found: Estimate, meaning: str = "", **details: Any) -> Quantity:
    """An estimate as a quantity."""
    why = ""
    if not math.isfinite(found.stderr):
        why = found.why_no_error or "no spread could be taken"
    elif not found.reached:
        meaning = f"{meaning}; tolerance not reached".removeprefix("; ")
    return Quantity(name, found.value, found.stderr, why, meaning=meaning, **details)


@part
@kind("finding")
@dataclass(frozen=True, eq=False)
class InstrumentResult(Stored):
    """The results of one instrument.

    Attributes:
        instrument: its name.
        results: name of a part -> its result, as the function of the instrument gave it.
        missing: name of a part -> why it could not be measured, a sentence.
        seconds: wall time.
        is_final: False where memory was short: another try may find more.
        checked: what the derivatives were held against, and to how much; a sentence each.
    """

    instrument: str
    results: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    is_final: bool = True

    @property
    def why_not(self) -> str:
        """Why there is no result at all; empty where there is one."""
        return "" if self.results else "; ".join(dict.fromkeys(self.missing.values()))
