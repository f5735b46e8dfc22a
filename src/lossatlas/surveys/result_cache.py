"""Findings on their way: each is written to a ledger as it is made, and read from there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lossatlas.curvature.instrument import InstrumentResult
from lossatlas.io import Ledger, from_bytes, run_identity, to_bytes
from lossatlas.objective import Objective


def instruments_ledger(resume: str | Path) -> Path:
    """Where the findings of a survey are kept while it runs."""
    return Path(f"{resume}.instruments")


class ResultCache:
    """Finds a finding in a ledger, or makes it and writes it there.

    Args:
        ledger: where; None keeps nothing.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def keep(self, name: str, make: Callable[[], InstrumentResult]) -> InstrumentResult:
        """A finding, made at most once; one that is not final is not kept."""
        known = None if self._ledger is None else self._ledger.get(name)
        if known is not None:
            kept: InstrumentResult = from_bytes(known)
            return kept
        found = make()
        if self._ledger is not None and found.is_final:
            self._ledger.put(name, to_bytes(found))
        return found


@contextmanager
def keeper(
    resume: str | Path | None, objective: Objective, settings: Mapping[str, Any]
) -> Iterator[ResultCache]:
    """Open the ledger of a survey's findings."""
    if resume is None:
        yield ResultCache(None)
        return
    model, data = objective.fingerprint()
    about = {
        "mode": objective.mode,
        "parameters": list(objective.names),
        # A loss has no name to compare; what it gives has.
        "loss": objective.value().hex(),
    }
    run = run_identity("survey", about | dict(settings), model=model, data=data)
    with Ledger(instruments_ledger(resume), run) as ledger:
        yield ResultCache(ledger)
