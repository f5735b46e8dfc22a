"""Reports: a result as one self-contained page, with its readings in plain language."""

from lossatlas.arguments import guard_exports
from lossatlas.report.atlas import render_atlas, write_atlas
from lossatlas.report.contents import Builder, Card, Section, Tile
from lossatlas.report.film import write_film
from lossatlas.report.mesh import write_mesh
from lossatlas.report.page import render, write_report
from lossatlas.report.pictures import save_figures
from lossatlas.report.readings import headline, reading
from lossatlas.report.sections import SECTIONS
from lossatlas.result import Estimate, Figure, Reference, Table

__all__ = [
    "write_report",
    "write_atlas",
    "write_film",
    "write_mesh",
    "save_figures",
    "render",
    "render_atlas",
    "headline",
    "reading",
    "SECTIONS",
    "Section",
    "Builder",
    "Card",
    "Estimate",
    "Figure",
    "Reference",
    "Table",
    "Tile",
]

guard_exports(__name__)
