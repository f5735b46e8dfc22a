"""The objective as a training sees it: normalization layers use the batch's statistics."""

from lossatlas.errors import AtlasError
from lossatlas.objective import Objective
from lossatlas.objective.modes import norm_layers


def as_in_training(objective: Objective) -> Objective:
    """The objective with batch statistics in layers that use these in training."""
    layers = [layer for layer in norm_layers(objective.model) if layer.track_running_stats]
    # In a model that trains, layers that do not are frozen.
    frozen = objective.model.training and not any(layer.training for layer in layers)
    if objective.mode != "eval" or not layers or frozen:
        return objective
    in_training = objective.part()
    in_training.mode = "train"
    try:
        in_training.value()
    except AtlasError:
        # A batch of one example has no statistics.
        return objective
    return in_training
