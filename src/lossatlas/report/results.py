"""The page of any result: its sentences, figures and numbers."""

import re
from collections.abc import Sequence
from dataclasses import replace

from lossatlas.io import Provenance
from lossatlas.report.contents import Page, Section, estimates_table, tile
from lossatlas.result import Figure, Result, Table

_MAX_HERO, _MAX_TILES = 4, 4
# Characters of a heading, three lines; what holds an interval or an error in parentheses.
_MAX_HEADING = 110
_REMARK = re.compile(r" \([^()]*(?:±|\[)[^()]*\)")
# Headings that say more than the name of the kind.
_TITLES = {
    "connection": "From A to B",
    "merge": "The merge",
    "merge comparison": "The merges",
    "soup": "The soup",
    "edit curve": "Weights edited by curvature",
    "sensitivity": "Which layers can be cut",
    "forecast-fit": "Which forecast, and why",
    "forecast-prediction": "The forecast",
    "schedule-plan": "The schedules",
    "monitor-log": "Readings of the training",
    "spike": "A spike of the loss",
    "inits-ranking": "How far to trust it",
}
# Kinds whose name in a file is not what people call them.
_KINDS = {
    "suggested_lr": "Suggested learning rate",
    "choice": "Choice of a checkpoint",
    "runs": "Compared trainings",
    "average-choice": "Choice of an average",
    "inits-ranking": "Ranking of initializations",
    "mergetree": "Merge tree",
    "monitor-log": "Readings of a training",
}


def result_page(
    result: Result,
    title: str | None,
    provenance: Provenance | None,
    tables: Sequence[Table] = (),
) -> Page:
    """What the page of one result says and shows."""
    kind = result.__kind__
    said = result.sentences()
    verdict = result.headline() or (said[0] if said else "")
    pictures = tuple(figure for figure in result.figures() if not figure.is_minor)
    # Notes stand at the end of the page.
    notes = tuple(getattr(result, "notes", ()))
    heading = without_numbers(verdict)
    # A heading without its intervals is said once more, with them.
    whole = () if heading == verdict else (verdict,)
    rest = (*whole, *(s for s in said if s not in (verdict, *notes)))
    section = result_section(result, rest, pictures[_MAX_HERO:])
    return Page(
        kind=kind_in_words(kind),
        title=title or _TITLES.get(kind, kind_in_words(kind)),
        headline=heading,
        hero=pictures[:_MAX_HERO],
        sections=(replace(section, tables=(*tables, *section.tables)), *_details(result)),
        notes=notes,
        provenance=provenance or getattr(result, "provenance", None) or Provenance(),
    )


def without_numbers(verdict: str) -> str:
    """A verdict that is too long for a heading without the remarks that hold intervals."""
    if len(verdict) <= _MAX_HEADING:
        return verdict
    return _REMARK.sub("", verdict)


def kind_in_words(kind: str) -> str:
    """A kind of results as people write it, as in "Forecast fit"."""
    return _KINDS.get(kind, kind.replace("_", " ").replace("-", " ").capitalize())


def result_section(
    result: Result, sentences: tuple[str, ...], figures: tuple[Figure, ...]
) -> Section:
    """A result as one section of a page, open below its head."""
    kind, estimates = result.__kind__, result.estimates()
    chief = [each for each in estimates if not each.is_minor]
    shown = [table for table in result.tables() if not table.is_minor]
    return Section(
        key=kind.replace(" ", "-"),
        title=_TITLES.get(kind, "What it says"),
        sentences=sentences,
        tiles=tuple(tile(each.name, each) for each in chief[:_MAX_TILES]),
        figures=figures,
        tables=(*shown, *estimates_table("Chief numbers", estimates)),
        estimates=estimates,
        references=result.cited(),
        first=True,
    )


# Minor tables stand closed, for readers who look for them.
def _details(result: Result) -> tuple[Section, ...]:
    minor = tuple(table for table in result.tables() if table.is_minor)
    if not minor:
        return ()
    return (Section(key="minor-tables", title="How it was computed", tables=minor),)
