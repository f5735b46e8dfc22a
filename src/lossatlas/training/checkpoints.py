"""Weights into a model, checked before a single one is changed."""

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
    """Load parameters and buffers into a model; all of them or, on an error, none.

    Args:
        model: changed in place; numbers are converted to its types and device.
        path: a checkpoint, see `lossatlas.io.load_checkpoint`, with the names and shapes of
            the model's `state_dict`.
        key: where the weights are in the file.
        prefix: keep only the names that begin so, and strip it.
        note: called with each sentence that a reader should know (what was stripped, rounded,
            not finite); logged as a warning by default.

    Returns:
        The model.

    Raises:
        ArgumentError: no module, or no name begins with `prefix`.
        FileError: missing, cut off, damaged, or not weights alone.
        StructureError: the weights do not fit; the message gives the first differing name.
        UnknownNameError: `key` is not in the file.
    """
    check_kind("model", model, nn.Module, "give the network to load into")
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
    """Write weights to a safetensors file; it takes the place of any when it is whole."""
    from safetensors.torch import save

    apart = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    with writing(path) as temporary:
        temporary.write_bytes(save(apart))
    return Path(path)
