"""Curvature instruments: spectra, traces, sharpness and what goes with them."""

from lossatlas.arguments import guard_exports
from lossatlas.curvature.activations import activations
from lossatlas.curvature.collapse import NeuralCollapse, neural_collapse
from lossatlas.curvature.criteria import HessianCriteria, hessian_criteria
from lossatlas.curvature.density import Density
from lossatlas.curvature.flatness import relative_flatness
from lossatlas.curvature.gradients import GradientNoise, gradient_noise
from lossatlas.curvature.grouped import GroupSpectrum
from lossatlas.curvature.matrix import Product
from lossatlas.curvature.memory import spectrum_memory
from lossatlas.curvature.plasticity import Plasticity, plasticity
from lossatlas.curvature.products import empirical_fisher, fisher, gauss_newton, hessian
from lossatlas.curvature.representations import alpha_req, effective_rank, rankme
from lossatlas.curvature.roughness import Roughness, roughness
from lossatlas.curvature.samplesize import SampleSizeCurve, sample_size_curve
from lossatlas.curvature.selfcheck import check
from lossatlas.curvature.sharpness import (
    WorstSharpness,
    average_sharpness,
    m_sharpness,
    worst_sharpness,
)
from lossatlas.curvature.similarity import cka
from lossatlas.curvature.spectrum import Spectrum, spectrum
from lossatlas.curvature.spikes import BlockRisk, SpikeRisk, spike_risk
from lossatlas.curvature.stability import Stability, edge_of_stability
from lossatlas.curvature.trace import Diagonal, diagonal, frobenius_norm, trace
from lossatlas.curvature.zerosum import (
    ZeroSumGradients,
    ZeroSumLosses,
    interference,
    zero_sum_gradients,
    zero_sum_losses,
)

__all__ = [
    # matrices as functions of a vector
    "Product",
    "hessian",
    "gauss_newton",
    "fisher",
    "empirical_fisher",
    "check",
    # spectra and sums of eigenvalues
    "Spectrum",
    "Density",
    "GroupSpectrum",
    "spectrum",
    "spectrum_memory",
    "HessianCriteria",
    "hessian_criteria",
    "Diagonal",
    "trace",
    "frobenius_norm",
    "diagonal",
    # sharpness and steps
    "WorstSharpness",
    "average_sharpness",
    "worst_sharpness",
    "m_sharpness",
    "relative_flatness",
    "Stability",
    "edge_of_stability",
    "GradientNoise",
    "gradient_noise",
    # the landscape around
    "Roughness",
    "roughness",
    "SampleSizeCurve",
    "sample_size_curve",
    # learning
    "Plasticity",
    "plasticity",
    "interference",
    "ZeroSumLosses",
    "zero_sum_losses",
    "ZeroSumGradients",
    "zero_sum_gradients",
    "BlockRisk",
    "SpikeRisk",
    "spike_risk",
    # representations
    "activations",
    "rankme",
    "effective_rank",
    "alpha_req",
    "NeuralCollapse",
    "neural_collapse",
    "cka",
]

guard_exports(__name__)
