"""Steps from here: the learning rate against the curvature, the gradient against its noise."""

from lossatlas.curvature import Stability
from lossatlas.plots.steps import edge_figure
from lossatlas.report.contents import Picture, Section, Tile
from lossatlas.report.readings_curvature import RULES, read_gradient, read_stability
from lossatlas.report.sections.findings import numbers, table
from lossatlas.result import Reference
from lossatlas.surveys import Survey
from lossatlas.text import number

_EDGE = Reference(
    "edge of stability",
    "J. M. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar. Gradient Descent on Neural "
    "Networks Typically Occurs at the Edge of Stability. ICLR 2021.",
    "https://arxiv.org/abs/2103.00065",
)
_NOISE = Reference(
    "gradient noise scale",
    "S. McCandlish, J. Kaplan, D. Amodei et al. An Empirical Model of Large-Batch Training. "
    "2018.",
    "https://arxiv.org/abs/1812.06162",
)


def steps_section(survey: Survey) -> Section | None:
    """What a step of an optimizer meets.

    Args:
        survey: the survey.

    Returns:
        The section; None where neither rate nor gradient was looked at.
    """
    rows = numbers(survey, "stability", "gradient")
    if not rows:
        return None
    finding = survey.findings.get("stability")
    edges: dict[str, Stability] = dict(finding.results) if finding else {}
    return Section(
        key="steps",
        title="Steps from here",
        lead=(
            "A step is stable along a direction while rate x curvature stays below the edge; "
            "a gradient is worth following while it stands above its noise."
        ),
        sentences=(*read_stability(survey), *read_gradient(survey)),
        tiles=tuple(_tile(edge) for edge in list(edges.values())[:1]),
        pictures=(_picture(edges),) if edges else (),
        tables=table(survey, "Steps", "stability", "gradient"),
        numbers=rows,
        references=(*([_EDGE] if edges else []), _NOISE),
    )


def _tile(edge: Stability) -> Tile:
    return Tile(
        "rate x curvature", number(edge.sharpness, 3), f"the edge is at {edge.threshold:.3g}"
    )


def _picture(edges: dict[str, Stability]) -> Picture:
    return Picture(
        "Against the edge of stability",
        edge_figure({RULES[key]: edge for key, edge in edges.items()}),
        "How sharp the ground is for the steps that the rate makes, over what is still "
        "stable on a quadratic.",
        "Ratio of curvature to the edge of stability for each rule.",
        wide=True,
    )
