"""Penalties on the loss: curvature of the head, gated decay, balance, robustness, topology.

Each is a pure function and, where it holds settings or state, a thin module around it.
"""

from lossatlas.arguments import guard_exports
from lossatlas.steering.penalties.capture import Capture, captured_features, find_head
from lossatlas.steering.penalties.composite import TopologicalLoss
from lossatlas.steering.penalties.cvp import (
    CautiousDecay,
    CVPRegularizer,
    apply_cvp_,
    cvp_gate,
    cvp_penalty,
)
from lossatlas.steering.penalties.dmta import DMTATracker, dmta_penalty
from lossatlas.steering.penalties.fused import SASPCrossEntropy, sasp_cross_entropy
from lossatlas.steering.penalties.nger import NGERWeighter, nger_loss, nger_weights, ntk_proxies
from lossatlas.steering.penalties.sasp import SASPLoss, per_example_sasp_penalty, sasp_penalty
from lossatlas.steering.penalties.sbmp import SBMPLoss, sbmp_penalty
from lossatlas.steering.penalties.spectral import SpectralRegularizer
from lossatlas.steering.penalties.trajectory import MESALoss, SAFLoss, trajectory_penalty
from lossatlas.steering.penalties.tram import ascended, tram_radius

__all__ = [
    # curvature of the head
    "sasp_penalty",
    "per_example_sasp_penalty",
    "SASPLoss",
    "sasp_cross_entropy",
    "SASPCrossEntropy",
    "Capture",
    "captured_features",
    "find_head",
    # gated decay
    "cvp_gate",
    "cvp_penalty",
    "apply_cvp_",
    "CVPRegularizer",
    "CautiousDecay",
    # several tasks
    "nger_weights",
    "nger_loss",
    "ntk_proxies",
    "NGERWeighter",
    # robustness
    "sbmp_penalty",
    "SBMPLoss",
    # direction
    "dmta_penalty",
    "DMTATracker",
    # layers
    "SpectralRegularizer",
    # the past
    "trajectory_penalty",
    "SAFLoss",
    "MESALoss",
    # uphill
    "tram_radius",
    "ascended",
    # all together
    "TopologicalLoss",
]

guard_exports(__name__)
