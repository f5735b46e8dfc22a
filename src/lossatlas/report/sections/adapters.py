"""Results as parts of a section: their figures as pictures, their estimates as numbers."""

from collections.abc import Iterable

from lossatlas.report.contents import Number, Picture, Tile
from lossatlas.result import Estimate, Figure
from lossatlas.text import cut_off, with_error


def pictures(figures: Iterable[Figure]) -> tuple[Picture, ...]:
    """Figures, drawn for a page."""
    return tuple(
        Picture(shown.title, shown.plotly(), shown.caption, shown.alt, shown.wide)
        for shown in figures
    )


def numbers(estimates: Iterable[Estimate]) -> tuple[Number, ...]:
    """Estimates as rows of the table of all numbers."""
    return tuple(
        Number(e.name, e.value, e.stderr, e.why_no_error or "", e.unit, e.meaning)
        for e in estimates
    )


def tile(label: str, shown: Estimate, remark: str = "") -> Tile:
    """An estimate at the head of the page."""
    value, _, error = with_error(shown.value, shown.stderr).partition(" ± ")
    detail = f"± {error}" if error else "no error known"
    return Tile(cut_off(label, 24), value, f"{detail}{remark}")
