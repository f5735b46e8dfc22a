"""The page of any result: its sentences, figures and numbers."""

from lossatlas.io import Provenance
from lossatlas.report.contents import Page, Section
from lossatlas.result import Estimate, Result, Table
from lossatlas.text import cut_off, with_error

# Headings that say more than the name of the kind.
_TITLES = {
    "connection": "From A to B",
    "merge": "The merge",
    "merge comparison": "The merges",
    "soup": "The soup",
    "edit curve": "Weights edited by curvature",
    "sensitivity": "Which layers can be cut",
    "forecast-fit": "The fit",
    "forecast-prediction": "The forecast",
    "schedule-plan": "The schedules",
}


def result_page(found: Result, title: str | None, provenance: Provenance | None) -> Page:
    """What the page of one result says and shows."""
    kind = found.__kind__
    said = found.sentences()
    return Page(
        kind=kind.capitalize(),
        title=title or _TITLES.get(kind, kind.capitalize()),
        headline=said[0] if said else "",
        reading=said[1:],
        sections=(result_section(found),),
        notes=tuple(getattr(found, "notes", ())),
        provenance=provenance or getattr(found, "provenance", None) or Provenance(),
    )


def result_section(found: Result) -> Section:
    """A result as one section of a page."""
    kind, estimates = found.__kind__, found.estimates()
    rows = tuple(_row(each) for each in estimates if not each.is_minor)
    head = ("number", "value", "error", "meaning")
    return Section(
        key=kind.replace(" ", "-"),
        title=_TITLES.get(kind, kind.capitalize()),
        figures=tuple(figure for figure in found.figures() if not figure.is_minor),
        tables=(Table("Numbers", head, rows),) if rows else (),
        estimates=estimates,
        references=found.references,
    )


def _row(found: Estimate) -> tuple[str, str, str, str]:
    value, _, error = with_error(found.value, found.error).partition(" ± ")
    why = cut_off(found.why_no_error or "", 200)
    shown = f"{value} {found.unit}".strip()
    return cut_off(found.name), shown, f"± {error}" if error else why, found.meaning
