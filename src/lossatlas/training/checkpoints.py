"""Load weights into a model, with all checks before any change."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lossatlas.checks import check_callable, check_kind
from lossatlas.io import load_checkpoint, writing

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    key: str | None = None,
    prefix: str | None = None,
    note: Callable[[str], None] | None = None,
) -> nn.Module:
    """Load parameters and buffers into a model: all, or none if an error is raised.

    Args:
        model: changed in place; values are converted to its dtypes and device.
        path: a checkpoint, see `lossatlas.io.load_checkpoint`, with the names and shapes of
            the model's `state_dict`.
        key: key of the weights in the file.
        prefix: load only names with this prefix, and strip it.
        note: function called with a sentence for each remark (stripped prefixes, rounded or
            non-finite values); logged as a warning by default.

    Returns:
        The model.

    Raises:
        ArgumentError: `model` is not a module, or no name starts with `prefix`.
        FileError: the file is missing, truncated, damaged, or contains more than weights.
        StructureError: the weights do not match the model; the message gives the first
            differing name.
        UnknownNameError: `key` is not in the file.
    """
    check_kind("model", model, nn.Module, "pass the network to load into")
    check_callable("note", note, optional=True)
    checkpoint = load_checkpoint(path, key=key, prefix=prefix, model=model)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in checkpoint.items():
            own[name].copy_(value)
    for sentence in checkpoint.notes:
        (note or logger.warning)(sentence)
    return model


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> Path:
    """Write weights to a safetensors file, replacing an existing one atomically."""
    from safetensors.torch import save

    apart = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    with writing(path) as temporary:
        temporary.write_bytes(save(apart))
    return Path(path)
