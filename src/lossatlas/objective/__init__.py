"""The narrow waist: model + loss + batches -> a pure function of the parameters."""

from lossatlas.objective.batches import Batch
from lossatlas.objective.losses import Supervised, accuracy, supervised
from lossatlas.objective.moments import Evaluation, Moments
from lossatlas.objective.objective import Objective
from lossatlas.objective.selfcheck import Check, CheckReport

__all__ = [
    "Batch",
    "Check",
    "CheckReport",
    "Evaluation",
    "Moments",
    "Objective",
    "Supervised",
    "accuracy",
    "supervised",
]
