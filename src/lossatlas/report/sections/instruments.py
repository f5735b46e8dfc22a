"""What instruments found: a section for each group of them."""

from lossatlas.curvature import GROUPS, InstrumentResult
from lossatlas.curvature.instrument import Group
from lossatlas.report.contents import Builder, Section, Tile, estimates_table
from lossatlas.result import Estimate, Table
from lossatlas.surveys import Survey
from lossatlas.text import number


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
    estimates = tuple(estimate for each in found for estimate in each.estimates())
    return Section(
        key=group.name,
        title=group.title,
        lead=group.lead,
        answers=tuple(
            (each.about.question, said) for each in found if (said := each.sentences())
        ),
        tiles=tuple(tile for each in found for tile in _tiles(each)),
        figures=tuple(
            figure for each in found for figure in each.figures() if not figure.is_minor
        ),
        tables=(*_table(group.title, estimates), *(t for each in found for t in each.tables())),
        estimates=estimates,
        references=tuple(r for each in found for r in each.about.references),
    )


GROUP_SECTIONS = tuple(map(group_builder, GROUPS))


def _tiles(found: InstrumentResult) -> tuple[Tile, ...]:
    estimates = found.estimates()
    if not found.about.headline or not estimates:
        return ()
    first = estimates[0]
    detail = first.meaning.partition("; ")[0]
    return (Tile(found.about.headline, number(first.value, 3), detail),)


def _table(title: str, estimates: tuple[Estimate, ...]) -> tuple[Table, ...]:
    return estimates_table(title, estimates)
