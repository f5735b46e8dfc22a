"""How the ground bends: extreme eigenvalues, density, trace, criteria."""

from lossatlas.curvature import Spectrum
from lossatlas.plots.spectra import spectrum_figure
from lossatlas.report.contents import Picture, Section, Tile
from lossatlas.report.readings_curvature import read_criteria, read_curvature
from lossatlas.report.sections.findings import numbers, table
from lossatlas.result import Reference
from lossatlas.surveys import Survey
from lossatlas.text import count, number

_REFERENCES = (
    Reference(
        "extreme eigenvalues and density",
        "B. Ghorbani, S. Krishnan, Y. Xiao. An Investigation into Neural Net Optimization via "
        "Hessian Eigenvalue Density. ICML 2019.",
        "https://arxiv.org/abs/1901.10159",
    ),
)
_CRITERIA = Reference(
    "criteria re and K of the Hessian",
    "N. Gabdullin. Investigating Generalization Capabilities of Neural Networks by Means of "
    "Loss Landscapes and Hessian Analysis. 2024.",
    "https://arxiv.org/abs/2412.10146",
)


def curvature_section(survey: Survey) -> Section | None:
    """What the curvature of a survey says.

    Args:
        survey: the survey.

    Returns:
        The section; None where curvature was not measured.
    """
    spectrum, criteria = survey.spectrum, survey.part("criteria", "criteria")
    rows = numbers(survey, "curvature", "criteria")
    if not rows:
        return None
    return Section(
        key="curvature",
        title="Curvature",
        lead=_lead(spectrum),
        sentences=(*read_curvature(survey), *read_criteria(survey)),
        tiles=_tiles(spectrum),
        pictures=_pictures(spectrum),
        tables=table(survey, "Eigenvalues and their sums", "curvature", "criteria"),
        numbers=rows,
        references=(*_REFERENCES, *([_CRITERIA] if criteria is not None else [])),
    )


def _lead(spectrum: Spectrum | None) -> str:
    if spectrum is None:
        return "The Hessian of the loss at the weights."
    return (
        f"The Hessian of the loss over {spectrum.parameters:,} weights, from "
        f"{count(spectrum.products, 'product')} with vectors. Its largest eigenvalue is the "
        "sharpest direction; negative ones lead downhill on both sides."
    )


def _tiles(spectrum: Spectrum | None) -> tuple[Tile, ...]:
    if spectrum is None:
        return ()
    top = number(float(spectrum.top[0]), 3)
    return (Tile("sharpest curvature", top, "largest eigenvalue"),)


def _pictures(spectrum: Spectrum | None) -> tuple[Picture, ...]:
    if spectrum is None:
        return ()
    return (
        Picture(
            "Spectrum",
            spectrum_figure(spectrum),
            "How many directions bend how much, on a logarithmic scale; dots are the extreme "
            "eigenvalues, found one by one. The bulk near zero is flat ground; what stands "
            "apart to the right are the outliers.",
            "Density of the eigenvalues of the Hessian with its extremes marked.",
            wide=True,
        ),
    )
