"""Chosen instruments, one after another, each with what it found or why it could not."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from lossatlas.errors import AtlasError
from lossatlas.surveys.finding import Finding
from lossatlas.surveys.instruments import Instrument
from lossatlas.surveys.keeping import Keeper
from lossatlas.surveys.site import Site

Stage = Callable[[str, int, int], None]


def investigate(
    site: Site,
    instruments: Sequence[Instrument],
    keeper: Keeper,
    stage: Stage | None = None,
) -> dict[str, Finding]:
    """Apply instruments to a site.

    Args:
        site: what they look at; each sees what those before it found.
        instruments: in the order in which they run.
        keeper: keeps findings as they are made.
        stage: called with (title, done, total) before each.

    Returns:
        Name of the instrument -> finding.

    Raises:
        ResumeError: the ledger is damaged or cannot be written.
    """
    findings: dict[str, Finding] = {}
    site.findings = findings
    for done, instrument in enumerate(instruments):
        if stage is not None:
            stage(instrument.title, done, len(instruments))
        findings[instrument.name] = keeper.keep(
            instrument.name,
            lambda chosen=instrument: _measured(site, chosen),  # type: ignore[misc]
        )
    return findings


def _measured(site: Site, instrument: Instrument) -> Finding:
    started = time.monotonic()
    results: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, measure in instrument.measure(site).items():
        try:
            results[name] = measure()
        except AtlasError as error:
            # An instrument that cannot serve this objective says why; the others go on.
            missing[name] = str(error)
    seconds = time.monotonic() - started
    return Finding(instrument.name, results, missing, seconds, site.objective.checked)
