"""The sections of a report, one file an instrument, in the order of the page.

A new instrument adds a file with one function, `Survey -> Section` (or None where the survey
does not hold its result), and a line in `SECTIONS`.
"""

from lossatlas.arguments import guard_exports
from lossatlas.report.contents import Builder
from lossatlas.report.sections.checks import checks_section
from lossatlas.report.sections.curvature import curvature_section
from lossatlas.report.sections.groups import groups_section
from lossatlas.report.sections.learning import features_section, learning_section
from lossatlas.report.sections.loss_map import loss_map_section, sampling_section
from lossatlas.report.sections.sharpness import sharpness_section
from lossatlas.report.sections.steps import steps_section
from lossatlas.report.sections.topology import topology_section
from lossatlas.report.sections.unavailable import unavailable_section

SECTIONS: tuple[Builder, ...] = (
    loss_map_section,
    topology_section,
    curvature_section,
    groups_section,
    steps_section,
    sharpness_section,
    learning_section,
    features_section,
    unavailable_section,
    checks_section,
    sampling_section,
)

__all__ = [
    "SECTIONS",
    "unavailable_section",
    "checks_section",
    "curvature_section",
    "features_section",
    "learning_section",
    "groups_section",
    "sampling_section",
    "steps_section",
    "sharpness_section",
    "loss_map_section",
    "topology_section",
]

guard_exports(__name__)
