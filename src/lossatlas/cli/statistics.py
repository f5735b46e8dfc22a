"""What becomes of running statistics and other buffers where two checkpoints are compared."""

import torch
from torch import nn

from lossatlas.algebra.params import Params
from lossatlas.errors import ArgumentError
from lossatlas.objective.modes import norm_layers

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
    "train": "Normalisation layers used the statistics of each batch (mode train).",
}


def settle_statistics(
    model: nn.Module, first: Params, second: Params, asked: str | None
) -> tuple[str, tuple[str, ...]]:
    """Make a model ready to hold every point between two checkpoints.

    A comparison moves parameters. Frozen parameters that differ are made to move too. Running
    statistics are estimated anew at every point, unless another mode is asked for; in mode
    "eval" those that differ become parameters, so that each checkpoint keeps its own and the
    line interpolates them. Anything else that differs cannot be interpolated.

    Args:
        model: changed in place.
        first: a state of it, parameters and buffers.
        second: another.
        asked: the mode that the user wants; None leaves the choice.

    Returns:
        The mode, and what a reader should know of it.

    Raises:
        ArgumentError: another buffer differs; the message gives the first.
    """
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    for name, parameter in model.named_parameters():
        if name in differing and parameter.is_floating_point():
            parameter.requires_grad_(True)
    keeping = {id(layer) for layer in norm_layers(model) if layer.track_running_stats}
    layers = {name: layer for name, layer in model.named_modules() if id(layer) in keeping}
    known = _statistics(layers)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    _check_rest(sorted(differing - names - known))
    mode = asked or ("recalibrated" if layers else "eval")
    moving = sorted(differing & known - _counters(layers))
    if mode == "eval" and moving:
        _as_parameters(model, moving)
    silent = not layers or (mode == "eval" and not moving)
    return mode, () if silent else (_NOTES[mode],)


def _statistics(layers: dict[str, nn.Module]) -> set[str]:
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, layer in layers.items()
        for name, _ in layer.named_buffers(recurse=False)
    }


def _counters(layers: dict[str, nn.Module]) -> set[str]:
    return {name for name in _statistics(layers) if name.endswith("num_batches_tracked")}


def _check_rest(names: list[str]) -> None:
    if names:
        raise ArgumentError(
            f"the two checkpoints differ in the buffer '{names[0]}', which is no weight and no "
            "statistic of a normalisation layer: points between them have no such buffer; give "
            "both the same, or make it a parameter."
        )


def _as_parameters(model: nn.Module, names: list[str]) -> None:
    for name in names:
        owner, _, last = name.rpartition(".")
        layer = model.get_submodule(owner)
        value = layer.get_buffer(last)
        delattr(layer, last)
        layer.register_parameter(last, nn.Parameter(value.detach().clone()))
