"""Criteria of generalisation read off a spectrum: how much of it is negative."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.algebra.estimators import Estimate
from lossatlas.checks import check_positive
from lossatlas.curvature.density import Density
from lossatlas.curvature.spectrum import Spectrum
from lossatlas.curvature.trees import Stored, part
from lossatlas.errors import ArgumentError
from lossatlas.store import kind

Array = NDArray[np.float64]


@part
@kind("hessian_criteria")
@dataclass(frozen=True)
class HessianCriteria(Stored):
    """Two ratios of a spectral density, averaged over its probes.

    Attributes:
        ends: |smallest node / largest node|, called re; inf where no node is positive.
        mass: sum over negative nodes of |node x weight|^power over the same sum over positive
            ones, called K_H^n; inf where no node is positive. Small: nearly convex.
        power: the exponent n.
    """

    ends: Estimate
    mass: Estimate
    power: float


def hessian_criteria(spectrum: Spectrum | Density, power: float = 0.5) -> HessianCriteria:
    """Read LLA's criteria off a spectrum.

    They are meant for spectra that are mainly positive, and depend on the number of Lanczos
    steps: compare only densities with equal steps.

    Args:
        spectrum: a spectrum with its density, or the density.
        power: exponent n, between 0 and 1 in the paper.

    Returns:
        Both criteria with standard errors over probes; that of `ends` holds the error bounds of
        the eigenvalues as well, which a density alone does not know.

    Raises:
        ArgumentError: the spectrum has no density, or `power` is not positive.

    Source: Gabdullin, arXiv:2412.10146.
    """
    check_positive("power", power)
    density = spectrum.density if isinstance(spectrum, Spectrum) else spectrum
    if density is None:
        raise ArgumentError(
            "`spectrum` must have a density; measure it with spectrum(..., density=True)."
        )

    def mass(nodes: Array, weights: Array) -> float:
        terms = np.abs(nodes * weights) ** power
        return _ratio(float(terms[nodes < 0].sum()), float(terms[nodes > 0].sum()))

    ends = density.mean(_ends_ratio)
    ends = (
        _with_bounds(ends, spectrum) if isinstance(spectrum, Spectrum) else _with_spread(ends)
    )
    return HessianCriteria(_honest(ends), _honest(density.mean(mass)), power)


def _with_bounds(ends: Estimate, found: Spectrum) -> Estimate:
    # Eigenvalues that are known are nodes of every probe: their error is not in the spread.
    low, high = found.bottom_bounds[:1].sum(), found.top_bounds[:1].sum()
    largest = max((float(v) for v in found.top[:1]), default=0.0)
    if not math.isfinite(ends.value) or largest <= 0:
        return ends
    bound = (float(low) + ends.value * float(high)) / largest
    return replace(ends, stderr=math.hypot(ends.stderr, bound))


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


def _honest(found: Estimate) -> Estimate:
    if math.isfinite(found.value):
        return found
    why = "a probe has no positive node"
    return Estimate(found.value, math.nan, found.products, found.samples, why_no_error=why)
