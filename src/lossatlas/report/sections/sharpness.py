"""Around the weights: sharpness, flatness, roughness, and how many examples it takes."""

from lossatlas.plots.steps import samples_figure
from lossatlas.report.contents import Picture, Section
from lossatlas.report.readings_instruments import (
    read_roughness,
    read_samples,
    read_sharpness,
)
from lossatlas.report.sections.findings import numbers, table
from lossatlas.result import Reference
from lossatlas.surveys import Survey

_INSTRUMENTS = ("sharpness", "flatness", "roughness", "samples")
_REFERENCES = {
    "sharpness": Reference(
        "sharpness in a ball, and of small sets; adaptive balls",
        "P. Foret et al. Sharpness-Aware Minimization. ICLR 2021 (arXiv:2010.01412). J. Kwon "
        "et al. ASAM. ICML 2021.",
        "https://arxiv.org/abs/2102.11600",
    ),
    "flatness": Reference(
        "relative flatness",
        "H. Petzka, M. Kamp, L. Adilova, C. Sminchisescu, M. Boley. Relative Flatness and "
        "Generalization. NeurIPS 2021.",
        "https://arxiv.org/abs/2001.00939",
    ),
    "roughness": Reference(
        "roughness index",
        "K. Wu, X. Jian, R. Du, J. Chen, X. Zhou. Roughness Index for Loss Landscapes of "
        "Neural Network Models of Partial Differential Equations. IEEE BigData 2023.",
        "https://arxiv.org/abs/2103.11069",
    ),
    "samples": Reference(
        "how many examples a landscape needs",
        "N. Kiselev, A. Grabovoy. Unraveling the Hessian: A Key to Smooth Convergence in Loss "
        "Function Landscapes. 2024.",
        "https://arxiv.org/abs/2409.11995",
    ),
}


def sharpness_section(survey: Survey) -> Section | None:
    """How the loss rises near the weights.

    Args:
        survey: the survey.

    Returns:
        The section; None where nothing of it was measured.
    """
    rows = numbers(survey, *_INSTRUMENTS)
    if not rows:
        return None
    return Section(
        key="surroundings",
        title="Around the weights",
        lead="What a small move in any direction costs, and how sure the ground itself is.",
        sentences=(*read_sharpness(survey), *read_roughness(survey), *read_samples(survey)),
        pictures=_pictures(survey),
        tables=table(survey, "Rises and roughness", *_INSTRUMENTS),
        numbers=rows,
        references=tuple(_REFERENCES[k] for k in _INSTRUMENTS if _measured(survey, k)),
    )


def _pictures(survey: Survey) -> tuple[Picture, ...]:
    curve = survey.part("samples", "curve")
    if curve is None:
        return ()
    return (
        Picture(
            "Sample size",
            samples_figure(curve),
            "How much one more example still moves the loss surface, over points drawn in the "
            "top eigenspace.",
            "Root change of the landscape against the number of examples.",
            wide=True,
        ),
    )


def _measured(survey: Survey, name: str) -> bool:
    return name in survey.findings and bool(survey.findings[name].results)
