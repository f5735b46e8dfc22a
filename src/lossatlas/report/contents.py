"""What a report is made of: sections, each with its words, pictures, tables and numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import plotly.graph_objects as go

from lossatlas.errors import ArgumentError
from lossatlas.result import Reference
from lossatlas.store import Provenance
from lossatlas.surveys import Survey
from lossatlas.text import with_error


@dataclass(frozen=True)
class Number:
    """A number of the survey with its error, or the reason why it has none.

    Attributes:
        name: what it is.
        value: the number.
        stderr: its standard error, same units; NaN where there is none.
        why: the reason where there is none.
        unit: of both.
        meaning: what it says, for a reader who has not met it.

    Raises:
        ArgumentError: neither an error nor a reason.
    """

    name: str
    value: float
    stderr: float = math.nan
    why: str = ""
    unit: str = ""
    meaning: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.stderr) and not self.why:
            raise ArgumentError(
                f"`stderr` of '{self.name}' must be a finite number; got {self.stderr!r}; "
                "give the reason as `why` where there is no error."
            )

    @property
    def shown(self) -> str:
        """The number as text, rounded to its error."""
        return with_error(self.value, self.stderr).partition(" ± ")[0]

    @property
    def error(self) -> str:
        """The error as text; empty where there is none."""
        error = with_error(self.value, self.stderr).partition(" ± ")[2]
        return f"± {error}" if error else ""


@dataclass(frozen=True)
class Tile:
    """One figure at the head of the page.

    Attributes:
        label: what it is.
        value: the figure, as text.
        detail: its error or a remark.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A plotly figure and what belongs to it.

    Attributes:
        title: heading.
        figure: the figure; texts in it must be safe (`lossatlas.text.safe`).
        caption: what to see, in a sentence or two.
        alt: what a reader hears who sees no picture.
        wide: whether it takes the full width.
    """

    title: str
    figure: go.Figure
    caption: str
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        title: heading.
        head: names of the columns.
        rows: cells as text.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Section:
    """What one instrument has to say. Everything but key and title may be empty.

    Attributes:
        key: a short word, unique on the page, for links.
        title: heading.
        lead: what the section shows, in a sentence.
        sentences: its reading; joins the reading at the head of the page.
        tiles: join the tiles at the head.
        pictures: in this section.
        tables: in this section.
        numbers: join the table of all numbers.
        references: join the list of methods.
    """

    key: str
    title: str
    lead: str = ""
    sentences: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    numbers: tuple[Number, ...] = ()
    references: tuple[Reference, ...] = field(default=())


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
