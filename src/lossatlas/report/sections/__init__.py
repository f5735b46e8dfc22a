"""The sections of a report, one file an instrument, in the order of the page.

A new instrument adds a file with one function, `Survey -> Section` (or None where the survey
does not hold its result), and a line in `SECTIONS`.
"""

from lossatlas.arguments import guard_exports
from lossatlas.report.contents import Builder
from lossatlas.report.sections.absent import absent_section
from lossatlas.report.sections.checks import checks_section
from lossatlas.report.sections.curvature import curvature_section
from lossatlas.report.sections.learning import features_section, learning_section
from lossatlas.report.sections.parts import parts_section
from lossatlas.report.sections.sampling import sampling_section
from lossatlas.report.sections.steps import steps_section
from lossatlas.report.sections.surroundings import surroundings_section
from lossatlas.report.sections.terrain import terrain_section
from lossatlas.report.sections.topology import topology_section

SECTIONS: tuple[Builder, ...] = (
    terrain_section,
    topology_section,
    curvature_section,
    parts_section,
    steps_section,
    surroundings_section,
    learning_section,
    features_section,
    absent_section,
    checks_section,
    sampling_section,
)

__all__ = [
    "SECTIONS",
    "absent_section",
    "checks_section",
    "curvature_section",
    "features_section",
    "learning_section",
    "parts_section",
    "sampling_section",
    "steps_section",
    "surroundings_section",
    "terrain_section",
    "topology_section",
]

guard_exports(__name__)
