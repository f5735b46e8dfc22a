"""A result as one HTML page that needs nothing but itself."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lossatlas.errors import ArgumentError
from lossatlas.io import Provenance, writing
from lossatlas.plots.library import packed_library
from lossatlas.recipes import Runs
from lossatlas.report.choice import choice_page
from lossatlas.report.comparison import comparison_page
from lossatlas.report.contents import Builder, Page, Section
from lossatlas.report.frames import has_surface, pack
from lossatlas.report.readings import headline, questions
from lossatlas.report.results import result_page
from lossatlas.report.scenes import scene_of
from lossatlas.report.sections import SECTIONS
from lossatlas.report.sections.loss_map import hero_figures
from lossatlas.report.trainings import runs_page
from lossatlas.result import Estimate, Result, Table
from lossatlas.surveys import Comparison, Survey
from lossatlas.surveys.alerts import alerts
from lossatlas.text import cut_off, plain, unbroken
from lossatlas.weights import Choice


def write_report(
    result: Result,
    path: str | Path,
    *,
    sections: Sequence[Builder] = SECTIONS,
    title: str | None = None,
    provenance: Provenance | None = None,
    tables: Sequence[Table] = (),
) -> Path:
    """Write a survey, a comparison, trainings or another result as one self-contained page.

    The page loads nothing from anywhere: scripts, styles and data are in it, and its content
    security policy forbids the rest.

    Args:
        result: what the page shows.
        path: where, by convention `*.html`; missing folders are made, a file that is there is
            replaced.
        sections: what to show of a survey, in this order; each makes a section of it or None.
        title: the heading of the page of another result, which holds none itself.
        provenance: where its numbers come from.
        tables: further tables of the page of another result.

    Returns:
        The path.

    Raises:
        ArgumentError: not a result that has a page, two sections have the same key, or a number
            has neither an error nor a reason.
        FileError: the place cannot be written; nothing is left behind.
    """
    page = render(result, sections=sections, title=title, provenance=provenance, tables=tables)
    with writing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render(
    result: Result,
    *,
    sections: Sequence[Builder] = SECTIONS,
    title: str | None = None,
    provenance: Provenance | None = None,
    tables: Sequence[Table] = (),
) -> str:
    """The page of a survey, a comparison, trainings or another result as text.

    Args:
        result: what the page shows.
        sections: what to show of a survey, in this order.
        title: as for `write_report`.
        provenance: as for `write_report`.
        tables: as for `write_report`.

    Returns:
        HTML.

    Raises:
        ArgumentError: not a result that has a page, two sections have the same key, or a number
            has neither an error nor a reason.
    """
    return _typeset(
        page_of(result, sections=sections, title=title, provenance=provenance, tables=tables)
    )


def page_of(
    result: Result,
    *,
    sections: Sequence[Builder] = SECTIONS,
    title: str | None = None,
    provenance: Provenance | None = None,
    tables: Sequence[Table] = (),
) -> Page:
    """What the page of a result says and shows; see `render`."""
    if isinstance(result, Comparison):
        return comparison_page(result)
    if isinstance(result, Runs):
        return runs_page(result)
    if isinstance(result, Choice):
        return choice_page(result, title, provenance)
    if isinstance(result, Survey):
        return _survey_page(result, sections)
    if not isinstance(result, Result):
        raise ArgumentError(
            "`result` must be a result, such as what survey(), compare() or merge() returns; "
            f"got {type(result).__name__}."
        )
    return result_page(result, title, provenance, tables)


def _survey_page(survey: Survey, sections: Sequence[Builder]) -> Page:
    made = [section for build in sections if (section := build(survey)) is not None]
    return Page(
        kind="Survey of a loss landscape",
        title=survey.title,
        headline=headline(survey),
        alerts=alerts(survey),
        questions=questions(survey),
        scene=scene_of(survey) if has_surface(survey) else None,
        hero=hero_figures(survey),
        sections=tuple(made),
        notes=(*survey.notes, *survey.landscape.notes),
        provenance=survey.provenance,
    )


def _typeset(page: Page) -> str:
    _check_keys(page.sections)
    return template("report.html.j2").render(
        page=page,
        title=cut_off(page.title, 200),
        sections=page.sections,
        cards=[(section, card) for section in page.sections for card in section.cards],
        references=_references(page.sections),
        notes=list(dict.fromkeys(page.notes)),
        provenance=_provenance(page.provenance),
        versions=page.provenance.versions,
        **parts_of([page]),
    )


def parts_of(pages: Sequence[Page]) -> dict[str, Any]:
    """What every template takes: the numbers of some pages, the library that draws them."""
    sections = [section for page in pages for section in page.sections]
    drawn = any(page.hero for page in pages) or any(
        section.figures or any(card.figures for card in section.cards) for section in sections
    )
    return {
        "pages": pages,
        "numbers": [_number(each) for section in sections for each in section.estimates],
        "plotly": Markup(packed_library()) if drawn else "",
        "version": Provenance().versions.get("lossatlas", ""),
    }


def _check_keys(sections: Sequence[Section]) -> None:
    keys = [section.key for section in sections]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ArgumentError(
            f"`sections` must have different keys; got {twice!r} twice; rename one of them."
        )


def _references(sections: Sequence[Section]) -> list[Any]:
    by_link = {ref.link: ref for section in sections for ref in section.references}
    return list(by_link.values())


def _provenance(record: Provenance) -> list[tuple[str, str]]:
    rows = {"seed": _seed(record)}
    rows |= {"weights": record.model or "not recorded", "data": record.data or "not recorded"}
    rows |= dict(_flat(record.settings))
    return list(rows.items())


def _seed(record: Provenance) -> str:
    if record.seed is not None:
        return str(record.seed)
    # Trainings count theirs from 0.
    seeds = record.settings.get("seeds")
    if isinstance(seeds, int) and seeds > 0:
        return "0" if seeds == 1 else f"0 to {seeds - 1}, one a training"
    return "none recorded"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", cut_off(value, 400)))
    return rows


def _number(estimate: Estimate) -> dict[str, str]:
    if not math.isfinite(estimate.error) and not estimate.why_no_error:
        raise ArgumentError(
            f"`stderr` of '{estimate.name}' must be a finite number; got {estimate.stderr!r}; "
            "give the reason as `why_no_error` where there is no error."
        )
    value, error = estimate.texts
    return {
        "name": cut_off(estimate.name),
        # That a loss is in units of the loss needs no word.
        "value": value if estimate.unit == "loss" else estimate.shown,
        "error": error,
        "why": cut_off(estimate.reason, 200),
        "meaning": cut_off(estimate.meaning, 200),
    }


def data_of(figure: Any) -> str:
    """The data of a plotly figure, packed: nothing in it can end an element of the page."""
    return pack(figure.to_json(validate=False).encode())


def _finalize(value: Any) -> Any:
    # Escaped text may still turn its neighbors around with control characters.
    return unbroken(plain(value)) if type(value) is str else value


def template(name: str) -> jinja2.Template:
    """A template of a page; whatever is put into it is text."""
    return _engine().get_template(name)


@cache
def _engine() -> jinja2.Environment:
    places = jinja2.PackageLoader("lossatlas.report", "templates")
    engine = jinja2.Environment(
        loader=places,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
    )
    engine.filters["data"] = data_of
    return engine
