"""Does what is differentiated belong to what is evaluated? Checks, and their reports.

A loss is code of others. Three faults make it give wrong numbers without an error: parameters
that are swapped in are not those that the forward pass reads, gradients that stop on the way,
and gradients that are not those of the loss. Each check compares two ways to one number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lossatlas.errors import AtlasError
from lossatlas.tracebacks import reason_of

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

PASSED, FAILED, UNKNOWN = "passed", "failed", "could not be checked"
# Two ways to one number agree where they are this close to each other.
AGREE = 1e-2
# Differences have settled where neighboring steps are this close to each other.
SETTLED = 2e-2
# What has settled disagrees with a derivative beyond this many times its own change.
CLEARLY = 10.0
# Why a parameter may seem unused: nothing in a graph leads to a tensor that was made before.
STALE = "unused, or read through a tensor made from it earlier that is kept elsewhere"
_ORDER = (
    "reach",
    "state",
    "gathered",
    "gradient",
    "hessian",
    "differences",
    "outputs",
    "losses",
)


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: "reach", "state", "gradient", "hessian" or "outputs".
        status: "passed", "failed" or "could not be checked".
        figure: relative disagreement of the two ways; NaN where there is none.
        sentence: what was compared, or why it could not be.
    """

    name: str
    status: str
    figure: float = math.nan
    sentence: str = ""

    @property
    def failed(self) -> bool:
        """Whether it failed; one that could not be made neither failed nor passed."""
        return self.status == FAILED

    def __str__(self) -> str:
        figure = f" to {self.figure:.1g}" if math.isfinite(self.figure) else ""
        return f"{self.name}: {self.status}{figure}; {self.sentence}"


@dataclass(frozen=True)
class CheckReport:
    """All checks of an objective.

    Attributes:
        checks: one each, values before gradients before curvature.
        unused: parameters that move and on which the loss does not depend.
    """

    checks: tuple[Check, ...]
    unused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed; one that could not be made has not."""
        return all(check.status == PASSED for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.failed)

    def __str__(self) -> str:
        rows = [("check", "result", "figure", "")]
        for check in self.checks:
            figure = f"{check.figure:.1e}" if math.isfinite(check.figure) else "-"
            rows.append((check.name, check.status, figure, check.sentence))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(
                [*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3]]
            )
            for row in rows
        ]
        if self.unused:
            lines.append(f"the loss does not depend on: {', '.join(self.unused)} ({STALE})")
        return "\n".join(line.rstrip() for line in lines)


def in_order(checks: Mapping[str, Check]) -> tuple[Check, ...]:
    """Checks, values before gradients before curvature, whichever was made first."""
    return tuple(checks[name] for name in _ORDER if name in checks)


def more(names: Sequence[str]) -> str:
    """How many names there are beside the first one that a message shows."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def state_check(objective: "Objective") -> Check:
    """What a pass changes in the model, and what becomes of it."""
    volatile = objective.volatile
    if not volatile.names:
        return Check("state", PASSED, sentence="a pass changes nothing in the model")
    what = f"a pass changes '{volatile.names[0]}'{more(volatile.names)}"
    how = "renewed for every point" if volatile.matters else "which no other point sees"
    return Check("state", PASSED, sentence=f"{what}, {how}")


def guarded(name: str, make: Callable[["Objective"], Check], objective: "Objective") -> Check:
    """Make a check; what it meets becomes its sentence."""
    try:
        return make(objective)
    except AtlasError as error:
        return Check(name, UNKNOWN, sentence=str(error).rstrip("."))
    # Whatever a model or a loss of others raises; a check only reports.
    except Exception as error:
        return Check(name, UNKNOWN, sentence=reason_of(error))
