"""Which statistics normalization layers use where two checkpoints are compared."""

import torch
from torch import nn

from lossatlas.linalg.params import Params
from lossatlas.objective.point import tracks_statistics

_NOTES = {
    "recalibrated": (
        "The model keeps running statistics, and those of neither checkpoint fit the points "
        "between: they were estimated anew from the data at every point, the two checkpoints "
        "included (mode recalibrated)."
    ),
    "eval": (
        "Running statistics were kept with each checkpoint and interpolated between them like "
        "weights (mode eval): they do not fit the points between, and a barrier may come from "
        "that alone."
    ),
    "train": "Normalization layers used the statistics of each batch (mode train).",
}


def settle_statistics(
    model: nn.Module, first: Params, second: Params, asked: str | None
) -> tuple[str, tuple[str, ...]]:
    """Make a model ready to hold every point between two checkpoints."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.equal(first[name], second[name]):
            parameter.requires_grad_(True)
    tracking = tracks_statistics(model)
    mode = asked or ("recalibrated" if tracking else "eval")
    return mode, (_NOTES[mode],) if tracking else ()
