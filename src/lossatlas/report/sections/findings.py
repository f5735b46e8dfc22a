"""Findings of instruments as numbers and tables, one way for all sections."""

from collections.abc import Iterator

from lossatlas.report.contents import Number, Table
from lossatlas.surveys import Quantity, Survey, named
from lossatlas.text import cut_off

_HEAD = ("measure", "value", "error", "meaning")


def quantities(survey: Survey, *instruments: str) -> Iterator[Quantity]:
    """The numbers that instruments found."""
    for name in instruments:
        if name in survey.findings:
            yield from named(name).quantities(survey.findings[name])


def numbers(survey: Survey, *instruments: str) -> tuple[Number, ...]:
    """The same for the table of all numbers."""
    return tuple(_number(found) for found in quantities(survey, *instruments))


def table(survey: Survey, title: str, *instruments: str) -> tuple[Table, ...]:
    """The chief numbers as a table.

    Args:
        survey: the survey.
        title: its heading.
        *instruments: their names.

    Returns:
        One table, or none where there is no number.
    """
    chief = [found for found in quantities(survey, *instruments) if not found.is_minor]
    shown = [(found, _number(found)) for found in chief]
    rows = tuple(
        (n.name, f"{n.shown} {n.unit}".strip(), n.error or n.why, found.meaning)
        for found, n in shown
    )
    return (Table(title, _HEAD, rows),) if rows else ()


def _number(found: Quantity) -> Number:
    return Number(
        cut_off(found.name),
        found.value,
        found.stderr,
        cut_off(found.why, 200),
        unit=found.unit,
        meaning=cut_off(found.meaning, 200),
    )
