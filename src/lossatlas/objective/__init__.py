"""The narrow waist: model + loss + batches -> a pure function of the parameters."""

from lossatlas.arguments import guard_exports
from lossatlas.objective.batches import Batch
from lossatlas.objective.losses import Supervised, accuracy, supervised
from lossatlas.objective.moments import Evaluation, Moments
from lossatlas.objective.objective import Objective

__all__ = [
    "Batch",
    "Evaluation",
    "Moments",
    "Objective",
    "Supervised",
    "accuracy",
    "supervised",
]

guard_exports(__name__)
