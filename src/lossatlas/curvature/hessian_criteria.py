"""Criteria of generalization read off a spectrum: how much of it is negative."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_positive
from lossatlas.curvature.density import Density
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.selfcheck import CheckedResult
from lossatlas.curvature.spectrum import Spectrum
from lossatlas.errors import ArgumentError
from lossatlas.result import Estimate, Figure, Reference, result, rows_figure
from lossatlas.text import number, percent

Array = NDArray[np.float64]


_REFERENCE = Reference(
    "criteria re and K of the Hessian",
    "N. Gabdullin. Investigating Generalization Capabilities of Neural Networks by Means of "
    "Loss Landscapes and Hessian Analysis. 2024.",
    "https://arxiv.org/abs/2412.10146",
)


@result("hessian_criteria", references=(_REFERENCE,))
class HessianCriteria(CheckedResult):
    """Two ratios of a spectral density, averaged over its probes.

    Attributes:
        ends: |smallest node / largest node|, called re; inf where no node is positive. Of a
            spectrum with both ends: the ratio of the eigenvalues, whose error is that of their
            error bounds and no standard error; NaN where a bound hides a sign.
        mass: sum over negative nodes of |node x weight|^power over the same sum over positive
            ones, called K_H^n; inf where no node is positive. Small: nearly convex. The run
            that found the eigenvalues (the first row of the density) is left out: how many
            nodes it has depends on its tolerance. NaN where there is no other probe.
        power: the exponent n.
    """

    ends: Estimate
    mass: Estimate
    power: float

    def estimates(self) -> tuple[Estimate, ...]:
        """Both criteria."""
        ends = "|smallest node / largest node| of the density; small is nearly convex"
        mass = f"negative over positive nodes, to the power {self.power:g}"
        return (
            replace(self.ends, name="Hessian criterion re", meaning=ends),
            replace(self.mass, name="Hessian criterion K", meaning=mass),
        )

    def answer(self) -> tuple[str, str]:
        """How large the smallest eigenvalue is beside the largest in size."""
        if not math.isfinite(self.ends.value):
            return "not known", ""
        return f"the lowest is {percent(self.ends.value)} of the largest in size", "sure"

    def sentences(self) -> tuple[str, ...]:
        """How much of the spectrum is negative."""
        if not math.isfinite(self.ends.value):
            return ()
        mass = number(self.mass.value, 2) if math.isfinite(self.mass.value) else "not known"
        return (
            f"The smallest eigenvalue is {percent(self.ends.value)} of the largest in size "
            f"(criterion re); criterion K, negative over positive, is {mass}.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """Both criteria; 0 is convex."""
        return (
            rows_figure("Criteria", self.estimates(), "negative over positive", is_minor=True),
        )


@instrument(
    "hessian_criteria",
    title="Hessian criteria",
    question="How much of the curvature is negative?",
    group="curvature",
    cost="none after curvature",
    needs="two derivatives",
    references=(_REFERENCE,),
    place=2,
)
def survey_hessian_criteria(context: Context) -> Parts:
    """Criteria of generalization read off the density."""
    return {"criteria": lambda: hessian_criteria(context.spectrum)}


def hessian_criteria(spectrum: Spectrum | Density, power: float = 0.5) -> HessianCriteria:
    """Read LLA's criteria off a spectrum.

    They are meant for spectra that are mainly positive, and depend on the number of Lanczos
    steps: compare only densities with equal steps and as many known eigenvalues.

    Args:
        spectrum: a spectrum with its density, or the density.
        power: exponent n, between 0 and 1 in the paper.

    Returns:
        Both criteria; the error of `mass` is a standard error over probes, as is that of `ends`
        where a density alone is given.

    Raises:
        ArgumentError: the spectrum has no density, or `power` is not positive.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import hessian_criteria, spectrum
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> found = spectrum(la.Objective(model, loss, [batch]), top=1, bottom=1)
        >>> round(hessian_criteria(found).ends.value, 3)
        0.25

    Source: Gabdullin, arXiv:2412.10146.
    """
    check_positive("power", power)
    if not isinstance(spectrum, Spectrum | Density):
        raise ArgumentError(
            f"`spectrum` must be a Spectrum or a Density; got {type(spectrum).__name__}."
        )
    density = spectrum.density if isinstance(spectrum, Spectrum) else spectrum
    if density is None:
        raise ArgumentError(
            "`spectrum` must have a density; measure it with spectrum(..., density=True)."
        )

    def mass(nodes: Array, weights: Array) -> float:
        terms = np.abs(nodes * weights) ** power
        return _ratio(float(terms[nodes < 0].sum()), float(terms[nodes > 0].sum()))

    if isinstance(spectrum, Spectrum) and len(spectrum.top) and len(spectrum.bottom):
        ends = _of_spectrum(spectrum)
    else:
        ends = _with_spread(density.mean(_ends_ratio))
    checked = spectrum.checked if isinstance(spectrum, Spectrum) else ()
    masses = _honest(_of_probes(density, mass))
    return HessianCriteria(_honest(ends), masses, power, checked=checked)


def _of_probes(density: Density, mass: Callable[[Array, Array], float]) -> Estimate:
    weights = density.weights[np.isfinite(density.nodes)]
    if len(density.nodes) == 1 and np.ptp(weights) > 1e-9:
        why = "it needs a second probe: the run that found the eigenvalues does not count"
        return Estimate(math.nan, math.nan, density.products, why_no_error=why)
    if len(density.nodes) == 1:
        # Every eigenvalue is known: nothing is left to probe.
        return Estimate(mass(density.nodes[0], density.weights[0]), 0.0, density.products)
    return replace(density, nodes=density.nodes[1:], weights=density.weights[1:]).mean(mass)


def _of_spectrum(spectrum: Spectrum) -> Estimate:
    low, high = float(spectrum.bottom[0]), float(spectrum.top[0])
    below, above = float(spectrum.bottom_bounds[0]), float(spectrum.top_bounds[0])
    options = {"products": spectrum.products, "reached": spectrum.reached}
    if abs(low) < below or abs(high) < above:
        most = (abs(low) + below) / (high - above) if high > above else math.inf
        why = (
            f"the sign of an end is hidden by its error bound; the ratio is at most {most:.2g}"
        )
        return Estimate(math.nan, math.nan, **options, why_no_error=why)  # type: ignore[arg-type]
    if high <= 0:
        why = "no eigenvalue is positive"
        return Estimate(math.inf, math.nan, **options, why_no_error=why)  # type: ignore[arg-type]
    ratio = abs(low) / high
    return Estimate(ratio, (below + ratio * above) / high, **options)  # type: ignore[arg-type]


def _with_spread(ends: Estimate) -> Estimate:
    if ends.stderr:
        return ends
    why = "all probes share both ends, whose error bounds stand in the spectrum: pass that"
    return replace(ends, stderr=math.nan, why_no_error=why)


def _ends_ratio(nodes: Array, weights: Array) -> float:
    largest = float(nodes.max())
    return abs(float(nodes.min()) / largest) if largest > 0 else math.inf


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.inf


def _honest(estimate: Estimate) -> Estimate:
    if not math.isinf(estimate.value):
        return estimate
    why = "a probe has no positive node"
    return Estimate(
        estimate.value, math.nan, estimate.products, estimate.samples, why_no_error=why
    )
