"""The page of any result: its sentences, figures and numbers."""

from collections.abc import Sequence
from dataclasses import replace

from lossatlas.io import Provenance
from lossatlas.report.contents import Page, Section, tile
from lossatlas.result import Estimate, Figure, Result, Table
from lossatlas.text import cut_off, with_error

_MOST_HERO, _MOST_TILES = 4, 4
# Headings that say more than the name of the kind.
_TITLES = {
    "connection": "From A to B",
    "merge": "The merge",
    "merge comparison": "The merges",
    "soup": "The soup",
    "edit curve": "Weights edited by curvature",
    "sensitivity": "Which layers can be cut",
}


def result_page(
    found: Result,
    title: str | None,
    provenance: Provenance | None,
    tables: Sequence[Table] = (),
) -> Page:
    """What the page of one result says and shows."""
    kind = found.__kind__
    said = found.sentences()
    verdict = found.headline() or (said[0] if said else "")
    pictures = tuple(figure for figure in found.figures() if not figure.is_minor)
    section = result_section(
        found, tuple(s for s in said if s != verdict), pictures[_MOST_HERO:]
    )
    return Page(
        kind=kind.capitalize(),
        title=title or _TITLES.get(kind, kind.capitalize()),
        headline=verdict,
        hero=pictures[:_MOST_HERO],
        sections=(replace(section, tables=(*tables, *section.tables)),),
        notes=tuple(getattr(found, "notes", ())),
        provenance=provenance or getattr(found, "provenance", None) or Provenance(),
    )


def result_section(
    found: Result, sentences: tuple[str, ...], figures: tuple[Figure, ...]
) -> Section:
    """A result as one section of a page, open below its head."""
    kind, estimates = found.__kind__, found.estimates()
    chief = [each for each in estimates if not each.is_minor]
    head = ("number", "value", "error", "meaning")
    rows = tuple(_row(each) for each in chief)
    return Section(
        key=kind.replace(" ", "-"),
        title=_TITLES.get(kind, "What it says"),
        sentences=sentences,
        tiles=tuple(tile(each.name, each) for each in chief[:_MOST_TILES]),
        figures=figures,
        tables=(*found.tables(), *((Table("Numbers", head, rows),) if rows else ())),
        estimates=estimates,
        references=found.references,
        first=True,
    )


def _row(found: Estimate) -> tuple[str, str, str, str]:
    value, _, error = with_error(found.value, found.error).partition(" ± ")
    why = cut_off(found.why_no_error or "", 200)
    shown = f"{value} {found.unit}".strip()
    return cut_off(found.name), shown, f"± {error}" if error else why, found.meaning
