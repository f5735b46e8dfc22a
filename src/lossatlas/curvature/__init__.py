"""Curvature instruments: spectra, traces, sharpness and what goes with them."""

from lossatlas.arguments import guard_exports
from lossatlas.curvature import memory_models as _memory_models  # noqa: F401
from lossatlas.curvature.activations import activations
from lossatlas.curvature.collapse import NeuralCollapse, neural_collapse
from lossatlas.curvature.density import Density
from lossatlas.curvature.effective_parameters import EffectiveParameters, effective_parameters
from lossatlas.curvature.flatness import relative_flatness
from lossatlas.curvature.gradient_conflict import (
    ZeroSumGradients,
    ZeroSumLosses,
    interference,
    zero_sum_gradients,
    zero_sum_losses,
)
from lossatlas.curvature.gradient_noise import GradientNoise, gradient_noise
from lossatlas.curvature.groups import GroupSpectra, GroupSpectrum
from lossatlas.curvature.hessian_criteria import HessianCriteria, hessian_criteria
from lossatlas.curvature.instrument import (
    GROUPS,
    Context,
    Instrument,
    InstrumentResult,
    chosen,
    instrument,
    instruments,
)
from lossatlas.curvature.krylov_memory import spectrum_memory
from lossatlas.curvature.learning_coefficient import LearningCoefficient, learning_coefficient
from lossatlas.curvature.learning_rate import LearningRate
from lossatlas.curvature.matrices import empirical_fisher, fisher, gauss_newton, hessian
from lossatlas.curvature.memory_plan import MemoryPlan, plan_memory
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.plasticity import Plasticity, plasticity
from lossatlas.curvature.representations import (
    Representations,
    alpha_req,
    effective_rank,
    rankme,
)
from lossatlas.curvature.residual_gain import BlockGain, ResidualGain, residual_gain
from lossatlas.curvature.roughness import Roughness, roughness
from lossatlas.curvature.sample_size import SampleSizeCurve, sample_size_curve
from lossatlas.curvature.selfcheck import check
from lossatlas.curvature.sharpness import (
    Sharpness,
    WorstSharpness,
    average_sharpness,
    m_sharpness,
    worst_sharpness,
)
from lossatlas.curvature.similarity import Similarity, cka
from lossatlas.curvature.spectrum import Spectrum, spectrum
from lossatlas.curvature.stability import Stability, edge_of_stability
from lossatlas.curvature.trace import Diagonal, diagonal, frobenius_norm, trace

__all__ = [
    # instruments of a survey
    "GROUPS",
    "Instrument",
    "InstrumentResult",
    "Context",
    "instrument",
    "instruments",
    "chosen",
    # matrices as functions of a vector
    "CurvatureOperator",
    "hessian",
    "gauss_newton",
    "fisher",
    "empirical_fisher",
    "check",
    # spectra and sums of eigenvalues
    "Spectrum",
    "Density",
    "GroupSpectra",
    "GroupSpectrum",
    "spectrum",
    "spectrum_memory",
    "MemoryPlan",
    "plan_memory",
    "HessianCriteria",
    "hessian_criteria",
    "Diagonal",
    "trace",
    "frobenius_norm",
    "diagonal",
    "EffectiveParameters",
    "effective_parameters",
    # sharpness and steps
    "Sharpness",
    "WorstSharpness",
    "average_sharpness",
    "worst_sharpness",
    "m_sharpness",
    "relative_flatness",
    "Stability",
    "LearningRate",
    "edge_of_stability",
    "GradientNoise",
    "gradient_noise",
    # the landscape around
    "Roughness",
    "roughness",
    "SampleSizeCurve",
    "sample_size_curve",
    "LearningCoefficient",
    "learning_coefficient",
    # learning
    "Plasticity",
    "plasticity",
    "interference",
    "ZeroSumLosses",
    "zero_sum_losses",
    "ZeroSumGradients",
    "zero_sum_gradients",
    "BlockGain",
    "ResidualGain",
    "residual_gain",
    # representations
    "activations",
    "Representations",
    "rankme",
    "effective_rank",
    "alpha_req",
    "NeuralCollapse",
    "neural_collapse",
    "Similarity",
    "cka",
]

guard_exports(__name__)
