"""Curvature part by part: of layers and of classes."""

import math

from lossatlas.curvature import GroupSpectrum
from lossatlas.plots.parts import MOST_PARTS, groups_figure
from lossatlas.report.contents import Picture, Section, Table
from lossatlas.report.readings_curvature import read_parts
from lossatlas.report.sections.findings import numbers
from lossatlas.result import Reference
from lossatlas.surveys import Survey
from lossatlas.text import number, with_error

_REFERENCE = Reference(
    "spectra of classes, and how near to a saddle they are",
    "H. Rangwani, S. K. Aithal, M. Mishra, R. V. Babu. Escaping Saddle Points for Effective "
    "Generalization on Class-Imbalanced Data. NeurIPS 2022.",
    "https://arxiv.org/abs/2212.13827",
)
_KINDS = {
    "layers": ("layer", "Layer by layer", "The block of the Hessian over one layer alone."),
    "classes": (
        "class",
        "Class by class",
        "The Hessian of the mean loss of one class alone, over all weights.",
    ),
}


def groups_section(survey: Survey) -> Section | None:
    """Which layers and classes bend how much.

    Args:
        survey: the survey.

    Returns:
        The section; None where neither was measured.
    """
    found = {kind: survey.part(kind, kind) for kind in _KINDS}
    known = {kind: groups for kind, groups in found.items() if groups}
    if not known:
        return None
    return Section(
        key="parts",
        title="Part by part",
        lead=(
            "The largest eigenvalue says how sharp a part is. A lowest one that is negative "
            "and large beside it means that the part stands on a saddle, with a way down."
        ),
        sentences=tuple(read_parts(survey)),
        pictures=tuple(_picture(kind, groups) for kind, groups in known.items()),
        tables=tuple(_table(kind, groups) for kind, groups in known.items()),
        numbers=numbers(survey, *known),
        references=(_REFERENCE,) if "classes" in known else (),
    )


def _picture(kind: str, groups: tuple[GroupSpectrum, ...]) -> Picture:
    _, title, what = _KINDS[kind]
    hidden = len(groups) - MOST_PARTS
    note = f" The {MOST_PARTS} sharpest are shown." if hidden > 0 else ""
    return Picture(
        title,
        groups_figure(groups),
        f"{what} Error bars are residual bounds.{note}",
        f"Largest and lowest eigenvalue, {title.lower()}.",
        wide=len(groups) > 12,
    )


def _table(kind: str, groups: tuple[GroupSpectrum, ...]) -> Table:
    name, title, _ = _KINDS[kind]
    head: tuple[str, ...] = (
        name,
        "largest",
        "lowest",
        "ratio",
        "trace",
        "gradient",
        "examples",
        "note",
    )
    rows = [_row(line) for line in groups]
    if not any(line.note for line in groups):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return Table(title, head, tuple(rows))


def _ratio(line: GroupSpectrum) -> str:
    low, high = line.ratio_range
    if not math.isnan(line.ratio) or not math.isfinite(high):
        return number(line.ratio, 3)
    return f"{number(low, 2)} to {number(high, 2)}" if low else f"at most {number(high, 2)}"


def _row(line: GroupSpectrum) -> tuple[str, ...]:
    return (
        line.name,
        with_error(line.largest, line.largest_bound),
        with_error(line.smallest, line.smallest_bound),
        _ratio(line),
        with_error(line.trace.value, line.trace.stderr),
        with_error(line.gradient_norm.value, line.gradient_norm.stderr),
        f"{line.examples:,}",
        line.note,
    )
