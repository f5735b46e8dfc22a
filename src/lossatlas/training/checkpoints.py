"""Weights into a model, checked before a single one is changed."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lossatlas.checks import check_callable, check_kind, check_same_structure
from lossatlas.errors import StructureError
from lossatlas.store import Checkpoint, load_checkpoint, writing
from lossatlas.store.checkpoints import is_code

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
        path: a checkpoint, see `lossatlas.store.load_checkpoint`, with the names and shapes of
            the model's `state_dict`. The counters of BatchNorm and all but one name of tied
            weights may be missing. One prefix that all names of the file have, and no name of
            the model, is stripped.
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
    state, notes = fitted(model, load_checkpoint(path, key=key, prefix=prefix))
    own = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    for sentence in notes:
        (note or logger.warning)(sentence)
    return model


def fitted(model: nn.Module, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a checkpoint under the names of a model."""
    own = {n: v for n, v in model.state_dict().items() if isinstance(v, Tensor)}
    weights, notes = _named_alike(own, checkpoint)
    groups = _tied(model)
    _check_tied(checkpoint.path, groups, weights)
    optional = {n for group in groups if any(m in weights for m in group) for n in group}
    optional |= {name for name in own if name.endswith("num_batches_tracked")}
    needed = {name: own[name] for name in own if name in weights or name not in optional}
    try:
        check_same_structure(model=needed, weights=weights)
    except StructureError as error:
        raise StructureError(f"'{checkpoint.path}' does not fit the model: {error}") from None
    for name, value in weights.items():
        _check_kind(checkpoint.path, name, value, own[name])
    return weights, [*checkpoint.notes, *notes, *_rounded(weights, own)]


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> Path:
    """Write weights to a safetensors file; the name appears when the file is whole."""
    from safetensors.torch import save

    apart = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    with writing(path) as temporary:
        temporary.write_bytes(save(apart))
    return Path(path)


def _named_alike(
    own: Mapping[str, Tensor], found: Checkpoint
) -> tuple[dict[str, Tensor], list[str]]:
    # Training code that keeps its network in an attribute ("model.", "net.") saves it so.
    weights = dict(found.tensors)
    if not weights or any(name in own for name in weights):
        return weights, []
    prefix = next(iter(weights)).split(".")[0] + "."
    short = {name.removeprefix(prefix): value for name, value in weights.items()}
    if all(name.startswith(prefix) for name in weights) and any(name in own for name in short):
        return short, [f"The prefix '{prefix}' of all names is stripped."]
    return weights, []


def _tied(model: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(value), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _check_tied(path: Path, groups: list[list[str]], weights: Mapping[str, Tensor]) -> None:
    for group in groups:
        first, *others = [name for name in group if name in weights] or group
        for other in others:
            if other in weights and not _equal(weights[first], weights[other]):
                raise StructureError(
                    f"'{first}' and '{other}' are one tensor of the model but differ in "
                    f"'{path}'; untie them in the model (tie_word_embeddings=False)."
                )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _check_kind(path: Path, name: str, value: Tensor, own: Tensor) -> None:
    real = own.is_floating_point() or own.is_complex()
    if real and value.dtype != own.dtype:
        codes = is_code(value) or not (value.is_floating_point() or value.is_complex())
        if codes or (value.is_complex() and not own.is_complex()):
            raise StructureError(
                f"'{name}' holds {_short(value)} in '{path}' but {_short(own)} in the model: "
                "these are codes of quantized weights or other numbers, not the weights; save "
                "the model dequantized and load that."
            )
    elif not real and (value.is_floating_point() or value.is_complex()):
        raise StructureError(
            f"'{name}' holds {_short(value)} in '{path}' but whole numbers ({_short(own)}) in "
            "the model; give weights of this model."
        )


def _rounded(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, value in weights.items():
        if value.is_floating_point() and value.dtype != own[name].dtype:
            pairs.setdefault((_short(value), _short(own[name])), []).append(name)
    notes = []
    for (stored, used), names in pairs.items():
        lost = max(_loss(weights[name], own[name].dtype) for name in names)
        which = f"{len(names)} tensors are stored as {stored} and used as {used}"
        exact = (
            "no number changes"
            if lost == 0
            else f"numbers change by up to {lost:.1e} of the largest"
        )
        notes.append(f"{which}: {exact}.")
    return notes


def _loss(value: Tensor, kind: torch.dtype) -> float:
    if value.numel() == 0:
        return 0.0
    change = (value.to(kind).double() - value.double()).abs().nan_to_num(0.0)
    return float(change.max() / value.double().abs().nan_to_num(0.0).max().clamp_min(1e-300))


def _short(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
