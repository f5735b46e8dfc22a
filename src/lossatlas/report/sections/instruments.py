"""What instruments found: a section for each group of them."""

import math
from collections.abc import Sequence

from lossatlas.curvature import GROUPS, InstrumentResult
from lossatlas.curvature.instrument import Group
from lossatlas.report.contents import Builder, Card, Section, estimates_table
from lossatlas.result import Estimate, Table
from lossatlas.surveys import Survey
from lossatlas.text import cut_off, number, with_error

# An error that changes no digit of a headline stands in the table alone.
_EXACT = 2e-4
_HEAD = ("measure", "value", "error", "meaning")


def group_builder(group: Group) -> Builder:
    """What makes the section of a group of instruments."""
    return lambda survey: group_section(survey, group)


def group_section(survey: Survey, group: Group) -> Section | None:
    """What the instruments of a group found.

    Args:
        survey: the survey.
        group: one of `lossatlas.curvature.GROUPS`.

    Returns:
        The section; None where nothing of it was measured.
    """
    found = [
        each
        for each in survey.findings.values()
        if each.about.group == group.name and each.results
    ]
    if not found:
        return None
    return Section(
        key=group.name,
        title=group.title,
        lead=group.lead,
        cards=tuple(map(instrument_card, found)),
        estimates=tuple(estimate for each in found for estimate in each.estimates()),
        references=tuple(r for each in found for r in each.about.references),
    )


def instrument_card(found: InstrumentResult) -> Card:
    """What one instrument found, under the question that it answers."""
    estimates = found.estimates()
    value, mark = answer_of(found)
    # Words say what they are about; a number needs its name beside it.
    is_number = not found.answer()[0]
    return Card(
        question=found.about.question or found.about.title,
        value=value,
        detail=(found.about.headline or chief(estimates)[1]) if is_number else "",
        mark=mark,
        sentences=found.sentences(),
        figures=tuple(figure for figure in found.figures() if not figure.is_minor),
        tables=(*_table(found.about.title, estimates), *found.tables()),
    )


def answer_of(found: InstrumentResult) -> tuple[str, str]:
    """The question of an instrument answered in words, else by its first number; the mark."""
    estimates = found.estimates()
    words, mark = found.answer()
    return (words, mark) if words else (chief(estimates)[0], mark_of(estimates))


def chief(estimates: Sequence[Estimate]) -> tuple[str, str]:
    """The first number with its error, and what it is; empty where there is none."""
    if not estimates:
        return "", ""
    first = estimates[0]
    if math.isnan(first.value):
        return first.shown, cut_off(first.name)
    unit = "" if first.unit == "loss" else first.unit
    value = with_error(first.value, first.error)
    if math.isfinite(first.error) and first.error < _EXACT * abs(first.value):
        value = number(first.value)
    return f"{value} {unit}".strip(), cut_off(first.name)


def mark_of(estimates: Sequence[Estimate]) -> str:
    """Whether the chief number stands out from its error."""
    if not estimates or not math.isfinite(estimates[0].error):
        return ""
    return "sure" if abs(estimates[0].value) > 2 * estimates[0].error else ""


GROUP_SECTIONS = tuple(map(group_builder, GROUPS))


def _table(title: str, estimates: tuple[Estimate, ...]) -> tuple[Table, ...]:
    return estimates_table(title, estimates)
