"""toploss 0.1.0 by its own names: change the import, keep the code.

What is mended: `cvp_penalty` and `CVPRegularizer` without any gradient are an error instead of
zero; `TopologicalLoss` raises where a term is on and its inputs are missing instead of leaving
it out; `lambda_dmta` is the whole weight, the tracker's own does not multiply it; class indices
may be any integers, logits may have further axes, and half precision is summed in float32; the
gradient of `dmta_penalty` is finite at zero.
"""

from lossatlas.compat.toploss.functional import (
    apply_cvp_,
    cvp_penalty,
    dmta_penalty,
    nger_loss,
    nger_weights,
    sasp_penalty,
    sasp_penalty_closed_form,
    sbmp_penalty,
)
from lossatlas.compat.toploss.modules import (
    CVPRegularizer,
    DMTATracker,
    NGERWeighter,
    SASPLoss,
    SBMPLoss,
    TopologicalLoss,
)

__version__ = "0.1.0"

__all__ = [
    "CVPRegularizer",
    "DMTATracker",
    "NGERWeighter",
    "SASPLoss",
    "SBMPLoss",
    "TopologicalLoss",
    "__version__",
    "apply_cvp_",
    "cvp_penalty",
    "dmta_penalty",
    "nger_loss",
    "nger_weights",
    "sasp_penalty",
    "sasp_penalty_closed_form",
    "sbmp_penalty",
]
