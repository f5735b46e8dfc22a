"""What a report is made of: sections, each with its words, figures, tables and numbers."""

from collections.abc import Callable
from dataclasses import dataclass

from lossatlas.io import Provenance
from lossatlas.result import Estimate, Figure, Reference, Table
from lossatlas.surveys import Survey
from lossatlas.text import cut_off, with_error


@dataclass(frozen=True)
class Tile:
    """One number at the head of the page.

    Attributes:
        label: what it is.
        value: the number, as text.
        detail: its error or a remark.
    """

    label: str
    value: str
    detail: str = ""


def tile(label: str, shown: Estimate, remark: str = "") -> Tile:
    """An estimate at the head of the page."""
    value, _, error = with_error(shown.value, shown.error).partition(" ± ")
    detail = f"± {error}" if error else "no error known"
    return Tile(cut_off(label, 40), value, f"{detail}{remark}")


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page. Everything but key and title may be empty.

    Attributes:
        key: a short word, unique on the page, for links.
        title: heading.
        lead: what the section shows, in a sentence.
        sentences: its reading.
        answers: questions, each with the sentences that answer it.
        tiles: join the tiles at the head.
        figures: in this section.
        tables: in this section.
        estimates: join the table of all numbers.
        references: join the list of methods.
    """

    key: str
    title: str
    lead: str = ""
    sentences: tuple[str, ...] = ()
    answers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tiles: tuple[Tile, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, eq=False)
class Page:
    """A whole page, before it is set in type.

    Attributes:
        kind: what it is, as in "Survey of a loss landscape".
        title: the heading. Never trusted as HTML.
        headline: the finding in one sentence.
        reading: the findings in words, the most important first.
        sections: in the order of the page.
        notes: what a reader should know.
        provenance: where the numbers come from.
    """

    kind: str
    title: str
    headline: str
    reading: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    provenance: Provenance


Builder = Callable[[Survey], Section | None]
