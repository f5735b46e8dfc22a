"""The page of a comparison: two checkpoints, and the ground between and around them."""

from collections.abc import Callable, Mapping
from typing import Any

from lossatlas.report.contents import Page, Section
from lossatlas.report.readings_comparison import View, ends_in_words, headline, reading
from lossatlas.report.sections.linear_path import linear_path_section
from lossatlas.report.sections.matched_basins import maps_section
from lossatlas.surveys import Comparison
from lossatlas.text import cut_off

SECTIONS: tuple[Callable[[View], Section], ...] = (linear_path_section, maps_section)


def comparison_page(found: Comparison) -> Page:
    """What the page of a comparison says and shows."""
    settings: Mapping[str, Any] = found.provenance.settings
    view = View(found)
    files = str(settings.get("first", "")), str(settings.get("second", ""))
    ends = ends_in_words(view, files)
    return Page(
        kind="Comparison of two checkpoints",
        title=str(settings.get("title") or "Two checkpoints"),
        headline=headline(view),
        reading=(*([f"{ends}."] if ends else []), *reading(view)),
        sections=tuple(build(view) for build in SECTIONS),
        notes=_notes(view),
        provenance=found.provenance,
    )


# What all three maps say is said once; the rest says of which map.
def _notes(view: View) -> tuple[str, ...]:
    one, two = view.names
    parts = {
        "The line": view.found.line.notes,
        f"Around {one}": view.found.first.notes,
        f"Around {two}": view.found.second.notes,
    }
    common = [
        note for note in view.found.line.notes if all(note in part for part in parts.values())
    ]
    own = [
        f"{place}: {cut_off(note, 400)}"
        for place, notes in parts.items()
        for note in notes
        if note not in common
    ]
    return (*common, *own)
