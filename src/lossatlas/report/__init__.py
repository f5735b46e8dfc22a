"""Reports: a result as one self-contained page, with its readings in plain language."""

from lossatlas.arguments import guard_exports
from lossatlas.report.contents import Builder, Section, Tile
from lossatlas.report.page import render, write_report
from lossatlas.report.readings import headline, reading
from lossatlas.report.sections import SECTIONS
from lossatlas.result import Estimate, Figure, Reference, Table

__all__ = [
    "write_report",
    "render",
    "headline",
    "reading",
    "SECTIONS",
    "Section",
    "Builder",
    "Estimate",
    "Figure",
    "Reference",
    "Table",
    "Tile",
]

guard_exports(__name__)
