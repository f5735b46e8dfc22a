"""The sections of a report, in the order of the page.

A section is a function `Survey -> Section`, or None where the survey does not hold its result.
Each group of instruments has one; an instrument needs nothing here.
"""

from lossatlas.arguments import guard_exports
from lossatlas.report.contents import Builder
from lossatlas.report.sections.checks import checks_section
from lossatlas.report.sections.instruments import GROUP_SECTIONS, group_section
from lossatlas.report.sections.loss_map import loss_map_section, sampling_section
from lossatlas.report.sections.topology import topology_section
from lossatlas.report.sections.unavailable import unavailable_section

SECTIONS: tuple[Builder, ...] = (
    loss_map_section,
    topology_section,
    *GROUP_SECTIONS,
    unavailable_section,
    checks_section,
    sampling_section,
)

__all__ = [
    "SECTIONS",
    "unavailable_section",
    "checks_section",
    "group_section",
    "sampling_section",
    "loss_map_section",
    "topology_section",
]

guard_exports(__name__)
