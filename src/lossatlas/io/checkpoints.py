"""Read weights: safetensors, torch files, and checkpoint folders."""

import contextlib
import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.checks import check_kind, check_path, check_text, nearest
from lossatlas.errors import ArgumentError, FileError, StructureError, UnknownNameError
from lossatlas.io.distributed import METADATA, read_distributed

if TYPE_CHECKING:
    from torch import Tensor, nn

# Where training code keeps the weights inside a checkpoint, the usual choice first.
KEYS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params",
    "model_state", "net_state_dict", "ema", "ema_state_dict", "model_ema", "state_dict_ema",
    "ema_model", "params_ema", "swa_model", "swa_state_dict", "averaged_model",
)  # fmt: skip
# What wrappers of a module put before every name.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
_INDEXES = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
)
_SINGLE = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model_fsdp.bin",
)
_COUNTER = "n_averaged"
_DISTRIBUTED = ("", "pytorch_model_fsdp_0", "checkpoint")
_CODES = ("int8", "uint8", "float8", "int4", "uint4", "float4")
_QUANTIZED = (".SCB", ".quant_state", ".absmax", ".qweight", ".qzeros", ".weight_format")


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(Mapping[str, "Tensor"]):
    """The weights of a file: a mapping name -> tensor with its origin.

    Attributes:
        tensors: parameters and buffers, as stored.
        path: the file or folder.
        notes: remarks in sentences: the key that was used, stripped prefixes, non-finite
            weights.
    """

    tensors: Mapping[str, "Tensor"]
    path: Path
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> "Tensor":
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        numbers = sum(value.numel() for value in self.tensors.values())
        return f"<Checkpoint '{self.path.name}': {len(self)} tensors, {numbers:,} numbers>"


def load_checkpoint(
    path: str | Path,
    *,
    key: str | None = None,
    prefix: str | None = None,
    model: "nn.Module | None" = None,
) -> Checkpoint:
    """Read the weights of a checkpoint without running any code from the file.

    Supported are `.safetensors`; files of `torch.save` (`.pt`, `.pth`, `.pth.tar`, `.ckpt`,
    `.bin`), read with `weights_only=True`; folders of Hugging Face (with an index or one file)
    and of accelerate; folders of `torch.distributed.checkpoint`.

    Args:
        path: the file or folder.
        key: key of the weights inside the file, such as "model" or "ema.state_dict". By default
            the file itself, or the first of the usual keys that contains tensors.
        prefix: load only names with this prefix, and strip it. By default wrapper prefixes of
            all names ("module." of DataParallel and AveragedModel, "_orig_mod." of
            torch.compile) are stripped.
        model: model whose names and dtypes the weights get; not changed. A prefix of all names
            of the file and of no name of the model is stripped ("net." of a Lightning module).
            BatchNorm counters and all but one name of tied weights may be missing.

    Returns:
        Mapping name -> tensor on the CPU, in the dtypes of the file or the model, with notes.

    Raises:
        ArgumentError: `path` or `model` has the wrong type, or no name starts with `prefix`.
        FileError: the file is missing, damaged, a pickled module, TorchScript, or has no
            weights.
        StructureError: the file contains a LoRA adapter, quantized codes, or weights of another
            model.
        UnknownNameError: `key` is not in the file; the message lists the available keys.

    Examples:
        >>> import torch, tempfile, lossatlas as la
        >>> file = tempfile.mkdtemp() + "/last.pt"
        >>> torch.save({"model": {"module.weight": torch.eye(2)}, "epoch": 3}, file)
        >>> checkpoint = la.io.load_checkpoint(file)
        >>> list(checkpoint), checkpoint.notes[0]
        (['weight'], "The weights are those under 'model'.")
    """
    source = check_path("path", path).expanduser()
    check_text("key", key, optional=True)
    check_text("prefix", prefix, optional=True)
    own = _names_of(model)
    state, notes = _weights(source, _read(source), key)
    if prefix is not None:
        state, stripped = _only_below(source, state, prefix)
    else:
        state, stripped = _unwrapped(state, own)
    _refuse_codes(source, state)
    _refuse_adapter(source, state)
    notes = [*notes, *stripped, *_not_finite(state)]
    if model is not None:
        from lossatlas.io.fitting import fitted

        state, told = fitted(model, source, state)
        notes += told
    return Checkpoint(state, source, tuple(notes))


def _names_of(model: "nn.Module | None") -> set[str]:
    if model is None:
        return set()
    from torch import nn

    check_kind("model", model, nn.Module, "pass the network the weights belong to")
    return set(model.state_dict())


def _read(source: Path) -> Any:
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise FileError(f"there is no file '{source}'; give the path of a checkpoint.")
    if source.name.endswith(".index.json"):
        return _read_indexed(source)
    with source.open("rb") as file:
        head = file.read(16)
    if not head:
        raise FileError(f"'{source}' is empty or truncated; copy or save it again.")
    if source.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(source)
    return _read_torch(source)


def _read_folder(folder: Path) -> Any:
    for name in _INDEXES + _SINGLE:
        if (folder / name).is_file():
            return _read(folder / name)
    for name in _DISTRIBUTED:
        if (folder / name / METADATA).is_file():
            return read_distributed(folder / name, _read_piece)
    if (folder / "adapter_config.json").is_file():
        raise StructureError(_adapter(folder))
    names = sorted(path.name for path in folder.iterdir())[:8]
    raise FileError(
        f"'{folder}' contains no known checkpoint (model.safetensors, pytorch_model.bin, an "
        f"index of them, or {METADATA}), only {', '.join(names) or 'nothing'}: give the file "
        "with the weights."
    )


def _read_indexed(index: Path) -> dict[str, Any]:
    try:
        places = json.loads(index.read_text())["weight_map"]
        files = sorted(set(places.values()))
        folder = index.parent.resolve()
        parts = [index.parent / name for name in files]
        outside = [p for p in parts if p.parent.resolve() != folder]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"'{index}' is not an index of weights ({error}); copy it again."
        ) from None
    if outside:
        raise FileError(f"'{index}' refers to a file outside its folder; rejected.")
    whole: dict[str, Any] = {}
    for part in parts:
        whole |= _read(part)
    missing = [name for name in places if name not in whole]
    if missing:
        raise FileError(
            f"'{index}' lists '{missing[0]}', which its files do not contain; copy them again."
        )
    return whole


def _read_safetensors(source: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(source)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileError(
            f"'{source}' is damaged, truncated or not safetensors ({_line(error)}); download "
            "or write it again."
        ) from None


def _read_torch(source: Path) -> Any:
    import torch

    archive = zipfile.is_zipfile(source)
    if archive:
        _check_archive(source)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True, mmap=archive)
    # A hostile or damaged file makes torch raise almost anything; each becomes one sentence.
    except Exception as error:
        raise FileError(_not_read(source, error)) from None


def _read_piece(content: io.BytesIO) -> "Tensor":
    import torch

    value = torch.load(content, map_location="cpu", weights_only=True)
    if not isinstance(value, torch.Tensor):
        raise FileError("a piece of the checkpoint is not a tensor; save it again.")
    return value


def _check_archive(source: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
    names = {entry.filename.split("/", 1)[-1] for entry in entries}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise FileError(
            f"'{source}' is TorchScript, a compiled program instead of weights; if you trust "
            "it, load it once with torch.jit.load(file).state_dict(), and save that."
        )
    if not any(name == "data.pkl" for name in names):
        raise FileError(
            f"'{source}' is an archive, but not one of torch.save; give the file with weights."
        )
    stated = sum(entry.file_size for entry in entries)
    if stated > source.stat().st_size:
        raise FileError(
            f"'{source}' should have {stated:,} bytes but has {source.stat().st_size:,}; it is "
            "damaged: copy or save it again."
        )


def _harmless() -> list[Any]:
    # What training code keeps beside weights and what runs nothing when it is read.
    import argparse

    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [argparse.Namespace, scalar, np.dtype, *kinds]


def _not_read(source: Path, error: Exception) -> str:
    text = str(error)
    match = re.search(r"GLOBAL ([\w.]+)", text)
    if match:
        return (
            f"'{source}' pickles an object of '{match[1]}', which cannot be opened without "
            "running its code: if you trust it, load it once with torch.load(file, "
            "weights_only=False) and save only the tensors, torch.save(model.state_dict(), "
            "'weights.pt')."
        )
    return (
        f"'{source}' is damaged, truncated or not a file of torch.save ({_line(error)}); copy "
        "or save it again."
    )


def _weights(source: Path, content: Any, key: str | None) -> tuple[dict[str, Any], list[str]]:
    if key is not None:
        return _only_tensors(source, _at_key(source, content, key), key)
    if _holds_tensors(content):
        return _only_tensors(source, content, None)
    places = _places(content)
    if not places:
        raise FileError(
            f"'{source}' has no weights under the usual keys ({_contents(content)}); select "
            "them with `key`."
        )
    first, *others = places
    state, notes = _only_tensors(source, _at_key(source, content, first), first)
    notes.insert(0, f"The weights are those under '{first}'.")
    if others:
        listed = ", ".join(map(repr, others))
        notes.append(f"The file also has weights under {listed}; select with `key`.")
    return state, notes


def _places(content: Any) -> list[str]:
    if not isinstance(content, Mapping):
        return []
    keys = [key for key in KEYS if key in content]
    rest = [key for key in content if isinstance(key, str) and key not in KEYS]
    # An exponential average often keeps its weights one level deeper.
    paths = [place for key in keys for place in _within(content[key], key)]
    return paths or [key for key in rest if _looks_like_weights(content[key])]


def _within(content: Any, key: str) -> list[str]:
    if _holds_tensors(content):
        return [key]
    if not isinstance(content, Mapping):
        return []
    return [f"{key}.{inner}" for inner in KEYS if _holds_tensors(content.get(inner))][:1]


def _looks_like_weights(content: Any) -> bool:
    return _holds_tensors(content) and any("." in str(n) or n == "weight" for n in content)


def _holds_tensors(content: Any) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    if any(isinstance(value, Mapping) and value for value in content.values()):
        return False
    named = all(isinstance(name, str) for name in content)
    return named and 2 * sum(map(_is_tensor, content.values())) >= len(content)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _at_key(source: Path, content: Any, key: str) -> Any:
    group = content
    rest = key
    while rest:
        if not isinstance(group, Mapping):
            raise FileError(f"'{source}' has no group '{key}'; it is {_contents(group)}.")
        # Names may hold dots themselves: the longest that fits is taken.
        parts = rest.split(".")
        fits = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        name = next((name for name in fits if name in group), None)
        if name is None:
            keys = [str(k) for k in group]
            raise UnknownNameError(
                f"'{source}' has no `key` '{key}'{nearest(rest, keys)}; it contains "
                f"{_contents(group)}."
            )
        group, rest = group[name], rest[len(name) + 1 :]
    return group


def _only_tensors(
    source: Path, content: Any, key: str | None
) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(content, Mapping) or not any(map(_is_tensor, content.values())):
        place = f" under '{key}'" if key else ""
        raise FileError(f"'{source}' has no named tensors{place}; it is {_contents(content)}.")
    state = {str(name): value.detach() for name, value in content.items() if _is_tensor(value)}
    other = [str(name) for name in content if str(name) not in state]
    notes = (
        [f"'{other[0]}' and {len(other) - 1} more are not tensors; left out."] if other else []
    )
    return state, notes


def _contents(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    names = [repr(str(name)) for name in content][:8]
    return ", ".join(names) + (", ..." if len(content) > 8 else "")


def _only_below(
    source: Path, state: dict[str, Any], prefix: str
) -> tuple[dict[str, Any], list[str]]:
    stripped = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    if not stripped:
        raise ArgumentError(
            f"no name in '{source}' starts with `prefix` {prefix!r}; names are "
            f"{', '.join(map(repr, list(state)[:4]))}, ..."
        )
    left = len(state) - len(stripped)
    return stripped, [f"{left} tensors outside prefix '{prefix}' are left out."] if left else []


def _unwrapped(state: dict[str, Any], own: set[str]) -> tuple[dict[str, Any], list[str]]:
    if not own.isdisjoint(state):
        # The model is wrapped too.
        return state, []
    state, notes = _without_counter(state)
    stripped = ""
    while wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in state)), None):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
        stripped += wrapper
    if stripped:
        notes.append(f"The prefix '{stripped}' of all names is stripped.")
    return state, notes


def _without_counter(state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    # torch.optim.swa_utils.AveragedModel counts the weights it has averaged.
    rest = {name: value for name, value in state.items() if name != _COUNTER}
    wrapped = rest and all(name.startswith(WRAPPERS) for name in rest)
    if _COUNTER not in state or not wrapped:
        return state, []
    return rest, [f"They are an average over {int(state[_COUNTER])} updates ('{_COUNTER}')."]


def _refuse_codes(source: Path, state: Mapping[str, Any]) -> None:
    names = [n for n in state if n.endswith(_QUANTIZED)]
    coded = [n for n, v in state.items() if n.endswith("weight") and is_code(v)]
    if names or coded:
        name = (coded or names)[0]
        raise StructureError(
            f"'{source}' contains quantized weights: '{name}' has {str(state[name].dtype)[6:]} "
            "codes instead of weights; save the model dequantized (model.dequantize() in "
            "transformers) and load that."
        )


def is_code(value: "Tensor") -> bool:
    """Whether a tensor contains quantization codes instead of weights."""
    return str(value.dtype).removeprefix("torch.").startswith(_CODES)


def _refuse_adapter(source: Path, state: Mapping[str, Any]) -> None:
    lora = [name for name in state if ".lora_A" in name or ".lora_B" in name]
    if lora and all(".lora_" in name or "modules_to_save" in name for name in state):
        raise StructureError(_adapter(source))


def _adapter(source: Path) -> str:
    folder = source if source.is_dir() else source.parent
    base = "the base model"
    config = folder / "adapter_config.json"
    if config.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            base = f"'{json.loads(config.read_text())['base_model_name_or_path']}'"
    return (
        f"'{source}' is a LoRA adapter: a change of {base}, not weights of its own; load it "
        "with peft.PeftModel.from_pretrained(base, folder).merge_and_unload(), save that "
        "model, and give its file."
    )


def _not_finite(state: Mapping[str, Any]) -> list[str]:
    import torch

    bad = {}
    for name, value in state.items():
        if value.is_floating_point() and not is_code(value) and not _all_finite(value):
            bad[name] = int((~torch.isfinite(value)).sum())
    if not bad:
        return []
    name, count = next(iter(bad.items()))
    more = f" (and {len(bad) - 1} more tensors)" if len(bad) > 1 else ""
    return [f"'{name}' contains {count} numbers that are NaN or infinite{more}."]


def _all_finite(value: "Tensor") -> bool:
    # One pass without a mask the size of the tensor: NaN and inf survive in extremes.
    return value.numel() == 0 or all(math.isfinite(float(part)) for part in value.aminmax())


def _line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")
