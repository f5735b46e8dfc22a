"""Convert the weights of a file to the names and dtypes of a model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lossatlas.checks import check_same_structure
from lossatlas.errors import StructureError
from lossatlas.io.checkpoints import is_code


def fitted(
    model: nn.Module, path: Path, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert the weights of a file to the names and dtypes of a model."""
    own = {n: v for n, v in model.state_dict().items() if isinstance(v, Tensor)}
    weights, notes = _named_alike(own, state)
    groups = _tied(model)
    _check_tied(path, groups, weights)
    optional = {n for group in groups if any(m in weights for m in group) for n in group}
    optional |= {name for name in own if name.endswith("num_batches_tracked")}
    needed = {name: own[name] for name in own if name in weights or name not in optional}
    try:
        check_same_structure(model=needed, weights=weights)
    except StructureError as error:
        hint = _one_of_several(own, weights)
        raise StructureError(f"'{path}' does not match the model: {error}{hint}") from None
    for name, value in weights.items():
        _check_kind(path, name, value, own[name])
    cast = {name: value.to(own[name].dtype) for name, value in weights.items()}
    return cast, [*notes, *_rounded(weights, own)]


def _named_alike(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    # Training code that keeps its network in an attribute ("model.", "net.") saves it so.
    short, stripped = dict(state), ""
    while short and not any(name in own for name in short):
        first = next(iter(short)).split(".")[0] + "."
        if not all(name.startswith(first) for name in short):
            return dict(state), []
        short = {name.removeprefix(first): value for name, value in short.items()}
        stripped += first
    return short, [f"The prefix '{stripped}' of all names is stripped."] if stripped else []


def _one_of_several(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    # Beside the network a training module may hold others, or parameters of its loss.
    ends = {name.removesuffix(next(iter(own))) for name in weights} - set(weights)
    for prefix in sorted(filter(None, ends)):
        if all(f"{prefix}{name}" in weights for name in own):
            return f" All names of the model are under prefix={prefix!r}."
    return ""


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
            f"'{name}' holds {_short(value)} in '{path}' but integers ({_short(own)}) in the "
            "model; use weights of this model."
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
