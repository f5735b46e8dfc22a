"""The page of any result: its sentences, figures and numbers."""

from lossatlas.io import Provenance
from lossatlas.report.contents import Page, Section, estimates_table
from lossatlas.result import Result

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
        kind=kind.replace("-", " ").capitalize(),
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
    return Section(
        key=kind.replace(" ", "-"),
        title=_TITLES.get(kind, kind.capitalize()),
        figures=tuple(figure for figure in found.figures() if not figure.is_minor),
        tables=(*estimates_table("Numbers", estimates), *found.tables()),
        estimates=estimates,
        references=found.references,
    )
