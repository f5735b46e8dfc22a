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
    return tuple(_number(estimate) for estimate in estimates)


def _number(found: Estimate) -> Number:
    # That a loss is in units of the loss needs no word.
    unit = "" if found.unit == "loss" else found.unit
    why = found.why_no_error or ""
    return Number(found.name, found.value, found.stderr, why, unit, found.meaning)


def tile(label: str, shown: Estimate, remark: str = "") -> Tile:
    """An estimate at the head of the page."""
    value, _, error = with_error(shown.value, shown.stderr).partition(" ± ")
    detail = f"± {error}" if error else "no error known"
    return Tile(cut_off(label, 24), value, f"{detail}{remark}")
