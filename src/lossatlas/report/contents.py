"""What a report is made of: sections, each with its words, figures, tables and numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lossatlas.estimate import UNKNOWN
from lossatlas.io import Provenance
from lossatlas.result import Estimate, Figure, Reference, Table
from lossatlas.surveys import Survey
from lossatlas.text import cut_off

# Longer reasons do not fit below a number.
_MAX_REASON = 44


@dataclass(frozen=True)
class Tile:
    """One number at the head of a page.

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
    value, error = shown.texts
    is_short = shown.error == 0 or 0 < len(shown.reason) <= _MAX_REASON
    reason = shown.reason if is_short else "no error known"
    # A share without its sign would be another number.
    unit = "\N{NO-BREAK SPACE}%" if shown.unit == "%" and value != UNKNOWN else ""
    return Tile(cut_off(label, 64), f"{value}{unit}", f"{error or reason}{remark}")


def estimates_table(title: str, estimates: Sequence[Estimate]) -> tuple[Table, ...]:
    """The chief numbers as a table; none where there are none."""
    rows = tuple(_row(each) for each in estimates if not each.is_minor)
    return (Table(title, ("number", "value", "error", "meaning"), rows),) if rows else ()


def _row(estimate: Estimate) -> tuple[str, str, str, str]:
    error = estimate.texts[1]
    why = cut_off(estimate.reason, 200)
    return cut_off(estimate.name), estimate.shown, error or why, cut_off(estimate.meaning, 200)


@dataclass(frozen=True, eq=False)
class Card:
    """A question with its answer.

    Attributes:
        question: as a reader asks it.
        value: the chief number with its error, as text.
        detail: what it is, in a few words.
        mark: "sure" where the answer is certain, "alarm" where it warns, "" otherwise.
        sentences: the answer in words; the first is the chief one.
        figures: the first is drawn, the others wait until they are asked for.
        tables: wait until they are asked for.
        wide: whether it takes the full width.
    """

    question: str
    value: str = ""
    detail: str = ""
    mark: str = ""
    sentences: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    wide: bool = False


@dataclass(frozen=True, eq=False)
class Scene:
    """A landscape that is drawn by the page itself, in three dimensions and from above.

    Attributes:
        head: what is known about it, packed.
        chunk: its arrays, packed.
    """

    head: str
    chunk: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page. Everything but key and title may be empty.

    Attributes:
        key: a short word, unique on the page, for links.
        title: heading.
        lead: what the section shows, in a sentence.
        sentences: its reading.
        cards: questions that a reader comes with, each with its answer.
        tiles: chief numbers; they stand at the head.
        figures: in this section.
        tables: in this section.
        estimates: join the table of all numbers.
        references: join the list of methods.
        first: whether it stands open below the head, and not among the details.
    """

    key: str
    title: str
    lead: str = ""
    sentences: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    tiles: tuple[Tile, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    references: tuple[Reference, ...] = ()
    first: bool = False


@dataclass(frozen=True, eq=False)
class Page:
    """A whole page, before it is set in type.

    Attributes:
        kind: what it is, as in "Survey of a loss landscape".
        title: the heading. Never trusted as HTML.
        headline: the finding in one sentence.
        subtitle: which files it is about, where the title does not say; often empty.
        alerts: what a reader must know before anything else, in sentences.
        questions: the few that stand beside the picture.
        scene: the picture at the head, drawn by the page itself.
        hero: the pictures at the head, where there is no scene.
        sections: in the order of the page.
        notes: what a reader should know.
        provenance: where the numbers come from.
    """

    kind: str
    title: str
    headline: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    provenance: Provenance
    alerts: tuple[str, ...] = ()
    questions: tuple[Card, ...] = ()
    hero: tuple[Figure, ...] = ()
    scene: Scene | None = None
    subtitle: str = ""


Builder = Callable[[Survey], Section | None]
