"""Weights from safetensors files, checked before a single one is changed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lossatlas.checks import check_same_structure
from lossatlas.errors import FileError, StructureError
from lossatlas.store import writing
from lossatlas.workbench.files import existing_file, reason


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load parameters and buffers into a model; all of them or, on an error, none.

    Args:
        model: changed in place; numbers are converted to its types and device.
        path: a safetensors file with the names and shapes of the model's `state_dict`. The
            counters of BatchNorm and the second names of tied weights may be missing.

    Returns:
        The model.

    Raises:
        FileError: missing, cut off, damaged, or not safetensors (pickled files are refused).
        StructureError: the weights do not fit; the message gives the first differing name.
    """
    source = existing_file(path, "a safetensors file")
    if source.suffix != ".safetensors":
        raise FileError(
            f"'{source}' is not a safetensors file; pickled weights are never opened: convert "
            "it once where you trust it, safetensors.torch.save_file(torch.load(file, "
            "weights_only=True), 'weights.safetensors')."
        )
    weights = _read(source)
    state = model.state_dict()
    optional = _optional(model) - set(weights)
    needed = {name: value for name, value in state.items() if name not in optional}
    try:
        check_same_structure(model=needed, weights=weights)
    except StructureError as error:
        raise StructureError(f"'{source}' does not fit the model: {error}") from None
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(value)
    return model


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> Path:
    """Write weights to a safetensors file; the name appears when the file is whole.

    Args:
        weights: name -> tensor; each is written by itself, tied ones too.
        path: where.

    Returns:
        The path.

    Raises:
        FileError: the place cannot be written.
    """
    from safetensors.torch import save

    apart = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    with writing(path) as temporary:
        temporary.write_bytes(save(apart))
    return Path(path)


def _read(source: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"'{source}' is damaged, cut off or not safetensors ({reason(error)}); "
            "fetch or write it again."
        ) from None


def _optional(model: nn.Module) -> set[str]:
    # Files keep one copy of tied weights, and the common checkpoints no counters.
    first: dict[int, str] = {}
    second = {
        name
        for name, value in model.named_parameters(remove_duplicate=False)
        if first.setdefault(id(value), name) != name
    }
    counters = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    return second | counters
