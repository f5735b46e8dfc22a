"""Findings on their way: each is written to a ledger as it is made, and read from there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lossatlas.curvature.instrument import InstrumentResult
from lossatlas.io import Ledger, from_bytes, open_ledger, run_identity, to_bytes
from lossatlas.objective import Objective


def instruments_ledger(resume: str | Path) -> Path:
    """Where the findings of a survey are kept while it runs."""
    return Path(f"{resume}.instruments")


class ResultCache:
    """Finds a finding in a ledger, or makes it and writes it there.

    Args:
        ledger: where; None keeps nothing.
        objective: whose processes are told what the first of them finds there.
    """

    def __init__(self, ledger: Ledger | None, objective: Objective) -> None:
        self._ledger, self._ranks = ledger, objective.ranks

    def keep(self, name: str, make: Callable[[], InstrumentResult]) -> InstrumentResult:
        """A finding, made at most once; one that is not final is not kept."""
        known = (
            self._get(name)
            if self._ranks is None
            else self._ranks.first(lambda: self._get(name))
        )
        if known is not None:
            kept: InstrumentResult = from_bytes(known)
            return kept
        result = make()
        if self._ledger is not None and result.is_final:
            self._ledger.put(name, to_bytes(result))
        return result

    def _get(self, name: str) -> bytes | None:
        return None if self._ledger is None else self._ledger.get(name)


@contextmanager
def keeper(
    resume: str | Path | None, objective: Objective, settings: Mapping[str, Any]
) -> Iterator[ResultCache]:
    """Open the ledger of a survey's findings."""
    if resume is None:
        yield ResultCache(None, objective)
        return
    model, data = objective.fingerprint()
    about = {
        "mode": objective.mode,
        "parameters": list(objective.names),
        # A loss has no name to compare; what it gives has.
        "loss": objective.value().hex(),
    }
    run = run_identity("survey", about | dict(settings), model=model, data=data)
    path = resume if objective.is_first else None
    file = None if path is None else instruments_ledger(path)
    with ExitStack() as stack:
        ledger = objective.together(lambda: stack.enter_context(open_ledger(file, run)))
        yield ResultCache(ledger, objective)
