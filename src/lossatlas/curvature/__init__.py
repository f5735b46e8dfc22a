"""Curvature instruments: spectra, traces, sharpness and what goes with them."""

from lossatlas.curvature.density import Density
from lossatlas.curvature.gradients import GradientNoise, gradient_noise
from lossatlas.curvature.grouped import GroupSpectrum
from lossatlas.curvature.matrix import Product
from lossatlas.curvature.products import empirical_fisher, fisher, gauss_newton, hessian
from lossatlas.curvature.spectrum import Spectrum, spectrum, spectrum_memory
from lossatlas.curvature.trace import Diagonal, diagonal, frobenius_norm, trace

__all__ = [
    "Product",
    "hessian",
    "gauss_newton",
    "fisher",
    "empirical_fisher",
    "Spectrum",
    "Density",
    "GroupSpectrum",
    "spectrum",
    "spectrum_memory",
    "Diagonal",
    "trace",
    "frobenius_norm",
    "diagonal",
    "GradientNoise",
    "gradient_noise",
]
