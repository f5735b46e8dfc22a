"""How the ground bends: extreme eigenvalues, density, trace."""

import numpy as np

from lossatlas.curvature.spectrum import Spectrum
from lossatlas.plots.spectra import spectrum_figure
from lossatlas.plots.text import count, number, with_error
from lossatlas.report.contents import Number, Picture, Reference, Section, Tile
from lossatlas.surveys import Survey

_UNIT = "loss / weight²"
_REFERENCES = (
    Reference(
        "extreme eigenvalues and density",
        "Ghorbani, Krishnan, Xiao: An Investigation into Neural Net Optimization via Hessian "
        "Eigenvalue Density. ICML 2019.",
        "https://arxiv.org/abs/1901.10159",
    ),
)


def curvature_section(survey: Survey) -> Section | None:
    """What the curvature of a survey says.

    Args:
        survey: the survey.

    Returns:
        The section; None where curvature was not measured.
    """
    spectrum = survey.spectrum
    if spectrum is None:
        return None
    top = with_error(float(spectrum.top[0]), float(spectrum.top_bounds[0]))
    return Section(
        key="curvature",
        title="Curvature",
        lead=(
            f"The Hessian of the loss over {spectrum.parameters:,} weights, from "
            f"{count(spectrum.products, 'product')} with vectors. Its largest eigenvalue is "
            "the sharpest direction; negative ones lead downhill on both sides."
        ),
        sentences=_sentences(spectrum),
        tiles=(Tile("sharpest curvature", top.partition(" ± ")[0], "largest eigenvalue"),),
        pictures=(
            Picture(
                "Spectrum",
                spectrum_figure(spectrum),
                "How many directions bend how much, on a logarithmic scale; dots are the "
                "extreme eigenvalues, found one by one.",
                "Density of the eigenvalues of the Hessian with its extremes marked.",
                wide=True,
            ),
        ),
        numbers=(*_eigenvalues(spectrum), *_sums(survey)),
        references=_REFERENCES,
    )


def _sentences(spectrum: Spectrum) -> tuple[str, ...]:
    found = []
    lowest, bound = float(spectrum.bottom[0]), float(spectrum.bottom_bounds[0])
    if lowest < -bound:
        ratio = number(spectrum.saddle_ratio, 2)
        found.append(
            f"The weights lie at a saddle of the loss: the lowest eigenvalue is negative, "
            f"{ratio} times the largest in size."
        )
    else:
        found.append("No direction bends downhill beyond the error bound of its eigenvalue.")
    outliers = spectrum.outliers
    if outliers:
        found.append(f"{count(outliers, 'eigenvalue')} stand above the bulk of the spectrum.")
    if not spectrum.reached:
        found.append("The eigenvalues did not reach the tolerance; their bounds say how far.")
    return tuple(found)


def _eigenvalues(spectrum: Spectrum) -> tuple[Number, ...]:
    ends = [("largest eigenvalue", spectrum.top, spectrum.top_bounds)]
    ends.append(("smallest eigenvalue", spectrum.bottom, spectrum.bottom_bounds))
    return tuple(
        Number(
            name if k == 0 else f"{name}, {k + 1} of {len(values)}",
            float(value),
            float(bound),
            unit=_UNIT,
            meaning="error is a residual bound",
        )
        for name, values, bounds in ends
        for k, (value, bound) in enumerate(zip(values, bounds, strict=True))
        if np.isfinite(value)
    )


def _sums(survey: Survey) -> tuple[Number, ...]:
    numbers = []
    for name, estimate, unit, meaning in (
        ("trace of the Hessian", survey.trace, _UNIT, "sum of all eigenvalues"),
        (
            "negative mass",
            None if survey.spectrum is None else survey.spectrum.negative_mass,
            "",
            "share of negative eigenvalues in the sum of sizes",
        ),
    ):
        if estimate is not None:
            why = estimate.why_no_error or "" if not np.isfinite(estimate.stderr) else ""
            numbers.append(
                Number(
                    name, estimate.value, estimate.stderr, why=why, unit=unit, meaning=meaning
                )
            )
    return tuple(numbers)
