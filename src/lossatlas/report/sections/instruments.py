"""What instruments found: a section for each group of them."""

import math
from collections.abc import Sequence

from lossatlas.curvature import GROUPS, InstrumentResult
from lossatlas.curvature.instrument import Group
from lossatlas.report.contents import Builder, Card, Section, estimates_table
from lossatlas.result import Estimate, Table
from lossatlas.surveys import Survey
from lossatlas.surveys.statistics import statistics_of
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
    results = [
        result
        for result in survey.findings.values()
        if result.about.group == group.name and result.results
    ]
    if not results:
        return None
    return Section(
        key=group.name,
        title=group.title,
        lead=group.lead,
        cards=tuple(instrument_card(survey, result) for result in results),
        estimates=tuple(estimate for result in results for estimate in result.estimates()),
        references=tuple(r for result in results for r in result.about.references),
    )


def instrument_card(survey: Survey, result: InstrumentResult) -> Card:
    """What one instrument found, under the question that it answers."""
    estimates = result.estimates()
    value, mark = answer_with_statistics(survey, result)
    # Words say what they are about; a number needs its name beside it.
    is_number = not result.answer()[0]
    return Card(
        question=result.about.question or result.about.title,
        value=value,
        detail=(result.about.headline or chief(estimates)[1]) if is_number else "",
        mark=mark,
        sentences=result.sentences(),
        figures=tuple(figure for figure in result.figures() if not figure.is_minor),
        tables=(*_table(result.about.title, estimates), *result.tables()),
    )


def answer_with_statistics(survey: Survey, result: InstrumentResult) -> tuple[str, str]:
    """The answer of an instrument, and which statistics of normalization layers it used."""
    value, mark = answer_of(result)
    kind = statistics_of(survey, result)
    return (f"{value}, with {kind}" if value and kind else value), mark


def answer_of(result: InstrumentResult) -> tuple[str, str]:
    """The question of an instrument answered in words, else by its first number; the mark."""
    estimates = result.estimates()
    words, mark = result.answer()
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
