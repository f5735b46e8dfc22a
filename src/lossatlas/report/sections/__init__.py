"""The sections of a report, one file an instrument, in the order of the page.

A new instrument adds a file with one function, `Survey -> Section` (or None where the survey
does not hold its result), and a line in `SECTIONS`.
"""

from lossatlas.report.contents import Builder
from lossatlas.report.sections.curvature import curvature_section
from lossatlas.report.sections.sampling import sampling_section
from lossatlas.report.sections.terrain import terrain_section
from lossatlas.report.sections.topology import topology_section

SECTIONS: tuple[Builder, ...] = (
    terrain_section,
    topology_section,
    curvature_section,
    sampling_section,
)

__all__ = [
    "SECTIONS",
    "curvature_section",
    "sampling_section",
    "terrain_section",
    "topology_section",
]
