"""The YAML files of mergekit: which models, and how they are merged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# mergekit's name -> ours, and its parameters -> our options.
_METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "linear": ("average", {}),
    "task_arithmetic": ("task_arithmetic", {"lambda": "scale"}),
    "ties": ("ties", {"density": "density", "lambda": "scale"}),
    "dare_linear": ("dare", {"density": "density", "lambda": "scale"}),
    "slerp": ("slerp", {"t": "t"}),
    "model_stock": ("stock", {}),
}
_KNOWN = {"merge_method", "base_model", "models", "parameters", "dtype"}
# Where they say what happens here anyway.
_IGNORED = {"normalize", "int8_mask", "weight"}


def translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `lossatlas merge` from those of mergekit, other settings beside them."""
    method = given["merge_method"]
    if method not in _METHODS:
        raise ValueError(
            f"`merge_method` '{method}' of mergekit is not served; served are "
            f"{', '.join(_METHODS)}"
        )
    ours, known = _METHODS[method]
    models = [_model(entry) for entry in given.get("models", ())]
    base = given.get("base_model")
    experts = [name for name, _ in models if name != base]
    if base is None:
        # A mean has no base; the first stands for it and is merged as well.
        base = experts[0] if experts else None
    parameters = _shared(models, base) | dict(given.get("parameters") or {})
    options = {
        known[name]: _one(name, value) for name, value in parameters.items() if name in known
    }
    unknown = [name for name in parameters if name not in known and name not in _IGNORED]
    if unknown:
        raise ValueError(f"mergekit's parameter `{unknown[0]}` is not served for '{method}'")
    said = ",".join(f"{name}={value}" for name, value in options.items())
    rest = {name: value for name, value in given.items() if name not in _KNOWN}
    files = [str(base), *experts] if base is not None else experts
    return {"files": files, "method": f"{ours}:{said}" if said else ours, **rest}


def _model(entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict) or "model" not in entry:
        raise ValueError("`models` of mergekit must be entries as in '- model: PATH'")
    return str(Path(str(entry["model"]))), dict(entry.get("parameters") or {})


def _shared(models: list[tuple[str, dict[str, Any]]], base: Any) -> dict[str, Any]:
    """Parameters that all models have in common; weights that differ are not served."""
    own = [parameters for name, parameters in models if name != base or not parameters]
    own = [parameters for parameters in own if parameters]
    found: dict[str, Any] = {}
    for name in {name for parameters in own for name in parameters}:
        values = [parameters.get(name) for parameters in own]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"mergekit's `{name}` differs between models ({values}), which is not served; "
                "method: search finds coefficients of their own"
            )
        found[name] = values[0]
    return found


def _one(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"mergekit's `{name}` must be one number; got {value!r}: gradients over layers and "
            "filters are not served"
        )
    return float(value)
