"""The narrow waist: model + loss + batches -> a pure function of the parameters."""

from lossatlas.arguments import guard_exports
from lossatlas.objective.batches import Batch
from lossatlas.objective.losses import Supervised, accuracy, supervised
from lossatlas.objective.objective import Objective
from lossatlas.objective.selfcheck import Check, CheckReport
from lossatlas.objective.standard_errors import Moments
from lossatlas.objective.weighted import Measured, Total, Weighted

__all__ = [
    "Batch",
    "Check",
    "CheckReport",
    "Measured",
    "Moments",
    "Objective",
    "Supervised",
    "Total",
    "Weighted",
    "accuracy",
    "supervised",
]

guard_exports(__name__)
