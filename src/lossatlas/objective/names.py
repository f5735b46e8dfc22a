"""Which parameters an objective moves: all trainable ones, or a subset by name."""

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lossatlas.checks import nearest
from lossatlas.errors import ArgumentError, ModelError, UnknownNameError
from lossatlas.objective.in_place import offloaded
from lossatlas.objective.remedies import why_nothing_moves

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# A piece of many parameters at once, in which single ones cannot be separated.
_FLAT = "FlatParameter"


def own_parameters(objective: "Objective") -> dict[str, nn.Parameter]:
    """The parameters of the model itself that an objective moves, by name."""
    parameters = dict(objective.model.named_parameters())
    return {name: parameters[name] for name in objective.names}


def select(model: nn.Module, patterns: str | Iterable[str] | None) -> dict[str, Tensor]:
    """The parameters to move, by their first name (tied weights have one entry).

    Args:
        model: any module.
        patterns: names or shell patterns such as "*lora_*"; None means all that require grad.

    Returns:
        name -> the parameter itself, in the order of the model.

    Raises:
        ModelError: no parameters, or none that is trainable or floating point.
        ArgumentError: patterns of the wrong type.
        UnknownNameError: a pattern matches nothing; the message gives the nearest name.
    """
    check_initialized(model)
    _check_kinds(model)
    every: dict[str, Tensor] = {
        name: value for name, value in model.named_parameters() if value.is_floating_point()
    }
    _check_numbers(model, every)
    if not every:
        raise ModelError(
            f"{type(model).__name__} has no parameters (of real numbers): "
            f"{why_nothing_moves(model)}."
        )
    if patterns is None:
        trainable = {name: value for name, value in every.items() if value.requires_grad}
        if not trainable:
            codes = [v.dtype for v in model.parameters() if not v.dtype.is_floating_point]
            if codes:
                raise ModelError(
                    f"{type(model).__name__} holds its weights in {codes[0]} codes, which "
                    "cannot move by small steps; load it in bfloat16 or float32, or name "
                    'adapters, as in params="*lora_*".'
                )
            raise ModelError(
                f"{type(model).__name__} has no trainable parameters (all are frozen); "
                'say which to move, as in params="*".'
            )
        return trainable
    chosen = {
        name for pattern in _patterns(patterns) for name in _matches(model, pattern, every)
    }
    return {name: value for name, value in every.items() if name in chosen}


def padding_rows(model: nn.Module, *, tied: bool = True) -> dict[str, int]:
    """Rows of embeddings that torch gives no gradient, so that they stay in training."""
    rows: dict[int, int] = {}
    others: set[int] = set()
    for module in model.modules():
        row = module.padding_idx if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None
        for value in module.parameters(recurse=False):
            if row is None:
                others.add(id(value))
            else:
                rows[id(value)] = row
    return {
        name: rows[id(value)]
        for name, value in model.named_parameters()
        if id(value) in rows and (tied or id(value) not in others)
    }


def _check_numbers(model: nn.Module, every: dict[str, Tensor]) -> None:
    values = [*every.values(), *model.buffers()]
    if not any(value.is_meta for value in values):
        return
    if any(offloaded(module) for module in model.modules()):
        _check_buffers(model)
        return
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} is offloaded by accelerate's hooks, and keeps no weights "
            "in memory between calls; load it whole (without device_map), or call "
            "accelerate.hooks.remove_hook_from_submodules(model) once it is."
        )
    raise ModelError(
        f"{type(model).__name__} has parameters or buffers on the meta device, which hold no "
        "numbers; load weights first."
    )


def _check_buffers(model: nn.Module) -> None:
    # A pass may change buffers, and hooks take them away before that could be put back.
    for name, value in model.named_buffers():
        if value.is_meta:
            raise ModelError(
                f"the buffer '{name}' is offloaded, or on the meta device; keep buffers with "
                "the model (offload_buffers=False), or load it whole."
            )


def check_initialized(model: nn.Module) -> None:
    """Require a model without lazy parameters or buffers that have no shape yet."""
    named = (*model.named_parameters(), *model.named_buffers())
    lazy = next((name for name, value in named if is_lazy(value)), None)
    if lazy is not None:
        raise ModelError(
            f"'{lazy}' of {type(model).__name__} is lazy and has no shape yet; run the model "
            "once on a batch first."
        )


def _check_kinds(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if any(kind.__name__ == _FLAT for kind in type(value).__mro__):
            raise ModelError(
                f"'{name}' holds many parameters in one ({_FLAT} of FSDP1); "
                "shard it with torch.distributed.fsdp.fully_shard, which keeps them apart, "
                "or measure a whole copy, loaded from a full state dict."
            )
        if value.is_complex() and value.requires_grad:
            raise ModelError(
                f"'{name}' is complex ({value.dtype}), and real losses are mapped over real "
                "numbers; hold torch.view_as_real(w) as the parameter and use "
                "torch.view_as_complex of it in forward, or leave it out with "
                "requires_grad_(False)."
            )


def _patterns(patterns: str | Iterable[str]) -> list[str]:
    one = isinstance(patterns, str) or not isinstance(patterns, Iterable)
    listed: list[Any] = [patterns] if one else list(patterns)
    if not listed or not all(isinstance(pattern, str) for pattern in listed):
        raise ArgumentError(
            f"`params` must be names or patterns of parameters; got {patterns!r}: "
            "leave it out to move all trainable ones."
        )
    return listed


def _matches(model: nn.Module, pattern: str, every: dict[str, Tensor]) -> list[str]:
    first = {id(value): name for name, value in every.items()}
    # Tied weights have several names; each of them leads to the first.
    alias = {
        name: first[id(value)]
        for name, value in model.named_parameters(remove_duplicate=False)
        if id(value) in first
    }
    matches = [alias[name] for name in alias if fnmatch.fnmatchcase(name, pattern)]
    if not matches:
        raise UnknownNameError(
            f"`params`: no parameter is called '{pattern}'{nearest(pattern, alias)}."
        )
    return matches


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside compiled, parallel and adapter wrappers."""
    bare: Any = model
    while True:
        inner = getattr(bare, "_orig_mod", None)
        if inner is None and hasattr(bare, "get_base_model"):
            inner = bare.get_base_model()
        if inner is None and not hasattr(bare, "config"):
            inner = getattr(bare, "module", None)
        if not isinstance(inner, nn.Module) or inner is bare:
            return bare  # type: ignore[no-any-return]
        bare = inner
