"""LoRA adapters as changes of their base: the products of their factors."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_number, check_path, nearest
from lossatlas.errors import ArgumentError, FileError, StructureError
from lossatlas.linalg.params import Params

_FILE = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\..+)?")


def is_adapter(path: str | Path) -> bool:
    """Whether a file or folder is a LoRA adapter as PEFT writes it."""
    place = Path(path)
    return (place / _CONFIG).is_file() or (
        place.name == _FILE and (place.parent / _CONFIG).is_file()
    )


def with_adapter(
    base: Params, adapter: str | Path | Params, *, scale: float | None = None
) -> dict[str, Tensor]:
    """The network that a LoRA adapter makes of its base, W + scale B A.

    Merges of several adapters need this: the mean of products is not the product of means, so
    `merge` takes the networks that this returns.

    Args:
        base: name -> tensor of the base model. Not changed.
        adapter: the folder or file of an adapter as PEFT writes it, or its tensors by name
            ("<module>.lora_A.weight", "<module>.lora_B.weight").
        scale: what products are multiplied by; by default lora_alpha / r (or lora_alpha /
            sqrt(r) with use_rslora) of the adapter's `adapter_config.json`.

    Returns:
        All tensors of the base, those that the adapter is about changed; other tensors of the
        adapter (biases, modules_to_save) replace those of the base. Products are made in
        float32 at least and rounded to the dtype of the base.

    Raises:
        ArgumentError: tensors by name without `scale`.
        FileError: the adapter cannot be read.
        StructureError: a module that the base lacks, half of a pair, other shapes, or a kind
            of adapter that is no product (DoRA).

    Source: Hu et al., arXiv:2106.09685.

    Examples:
        >>> import torch
        >>> from lossatlas.weights import with_adapter
        >>> base = {"fc.weight": torch.zeros(2, 3)}
        >>> pair = {"fc.lora_A.weight": torch.ones(1, 3), "fc.lora_B.weight": torch.ones(2, 1)}
        >>> with_adapter(base, pair, scale=0.5)["fc.weight"][0]
        tensor([0.5000, 0.5000, 0.5000])
    """
    if scale is not None:
        check_number("scale", scale)
    config: Mapping[str, Any] = {}
    if isinstance(adapter, str | Path):
        adapter, config = _read(check_path("adapter", adapter))
    elif scale is None:
        raise ArgumentError(
            "`scale` must be given with tensors by name: it is lora_alpha / r of the adapter."
        )
    pairs, others = _sorted_out(adapter)
    merged = {name: value.detach().clone() for name, value in base.items()}
    for name, value in others.items():
        target = _parameter_of(base, name)
        _check_shape(target, value.shape, base[target].shape)
        merged[target] = value.to(base[target])
    for module, pair in pairs.items():
        target = _parameter_of(base, f"{module}.weight")
        factor = scale if scale is not None else _scale(config, module, pair)
        merged[target] = _moved(target, base[target], pair, factor, config)
    return merged


def _read(source: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = source if source.is_dir() else source.parent
    file = source / _FILE if source.is_dir() else source
    try:
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        return load_file(file), config
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(
            f"'{source}' is no LoRA adapter that can be read ({error}); give the folder that "
            f"holds {_FILE} and {_CONFIG}."
        ) from None


Pair = dict[str, Tensor]


def _sorted_out(adapter: Params) -> tuple[dict[str, Pair], dict[str, Tensor]]:
    pairs: dict[str, Pair] = {}
    others: dict[str, Tensor] = {}
    for full, value in adapter.items():
        name = full.removeprefix(_PREFIX)
        if "lora_magnitude_vector" in name:
            raise StructureError(
                f"the adapter holds '{full}': a DoRA adapter is no product of two matrices; "
                "fold it into its base with peft's merge_and_unload()."
            )
        if match := _FACTOR.fullmatch(name):
            kind = "embedding " if "lora_embedding_" in name else ""
            pairs.setdefault(match["module"], {})[kind + match["side"]] = value
        else:
            others[name.replace(".modules_to_save.default", "")] = value
    for module, pair in pairs.items():
        if len(pair) != 2:
            raise StructureError(
                f"the adapter holds half of a pair for '{module}'; give all of its tensors."
            )
    return pairs, others


def _parameter_of(base: Params, name: str) -> str:
    """The base's own name of a tensor; one of the two may have a longer path."""
    if name in base:
        return name
    fitting = [own for own in base if own.endswith(f".{name}") or name.endswith(f".{own}")]
    if len(fitting) != 1:
        raise StructureError(
            f"the adapter changes '{name}', which the base does not hold{nearest(name, base)}; "
            "give the base that the adapter was trained on."
        )
    return fitting[0]


def _scale(config: Mapping[str, Any], module: str, pair: Pair) -> float:
    rank = next(value for side, value in pair.items() if side.endswith("A")).shape[0]
    patterns = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)),
        config.get("lora_alpha", rank),
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _moved(
    name: str, weight: Tensor, pair: Pair, scale: float, config: Mapping[str, Any]
) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    is_table = any(side.startswith("embedding") for side in pair)
    a, b = (
        next(v for side, v in pair.items() if side.endswith(end)).to(weight.device, wide)
        for end in "AB"
    )
    if a.shape[0] != b.shape[1]:
        raise StructureError(
            f"the adapter's pair for '{name}' has ranks {a.shape[0]} and {b.shape[1]}; "
            "give an adapter whose file is whole."
        )
    change = b.flatten(1) @ a.flatten(1)
    flat = weight.flatten(1).shape
    # Without a config, a weight that holds one row an input shows by its shape alone.
    looks_turned = change.shape != flat and change.T.shape == flat
    if is_table or config.get("fan_in_fan_out", looks_turned):
        change = change.T
    _check_shape(name, change.shape, flat)
    return (weight.to(wide) + scale * change.reshape(weight.shape)).to(weight.dtype)


def _check_shape(name: str, shape: Any, expected: Any) -> None:
    if tuple(shape) != tuple(expected):
        raise StructureError(
            f"the adapter's change of '{name}' has shape {tuple(shape)}; the base has "
            f"{tuple(expected)}; give the base that the adapter was trained on."
        )
