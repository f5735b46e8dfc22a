"""Chosen instruments, one after another, each with what it found or why it could not."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from lossatlas.errors import AtlasError
from lossatlas.objective.user_code import wrap_errors
from lossatlas.surveys.context import Context
from lossatlas.surveys.instrument_result import InstrumentResult
from lossatlas.surveys.instruments import Instrument
from lossatlas.surveys.result_cache import ResultCache

Stage = Callable[[str, int, int], None]

_OTHERS_GO_ON = "the other instruments are not affected."
_NO_MEMORY = (
    "the memory did not suffice; take smaller batches or fewer parameters (`params=`), and run "
    "it again with the same `resume` file"
)


def run_instruments(
    site: Context,
    instruments: Sequence[Instrument],
    keeper: ResultCache,
    stage: Stage | None = None,
) -> dict[str, InstrumentResult]:
    """Apply instruments to a site."""
    findings: dict[str, InstrumentResult] = {}
    site.findings = findings
    for done, instrument in enumerate(instruments):
        if stage is not None:
            stage(instrument.title, done, len(instruments))
        findings[instrument.name] = keeper.keep(
            instrument.name,
            lambda chosen=instrument: _measured(site, chosen),  # type: ignore[misc]
        )
    return findings


def _measured(site: Context, instrument: Instrument) -> InstrumentResult:
    started = time.monotonic()
    results: dict[str, Any] = {}
    missing: dict[str, str] = {}
    lost = False
    for name, measure in instrument.measure(site).items():
        try:
            with wrap_errors(f"`{instrument.name}`", _OTHERS_GO_ON):
                results[name] = measure()
        except AtlasError as error:
            # An instrument that cannot serve this objective says why; the others go on.
            missing[name] = str(error)
        except (MemoryError, RuntimeError) as error:
            # `wrap_errors` lets nothing through but a lack of memory, of any kind.
            missing[name], lost = f"{_NO_MEMORY} ({_first_line(error)})", True
    seconds = time.monotonic() - started
    checked = site.objective.checked
    return InstrumentResult(
        instrument.name, results, missing, seconds, is_final=not lost, checked=checked
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
