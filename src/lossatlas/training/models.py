"""Models by name, as for `--model`."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lossatlas.checks import check_at_least, check_one_of, nearest
from lossatlas.errors import ArgumentError, ModelError, UnknownNameError
from lossatlas.objective.modes import evaluation_mode
from lossatlas.objective.user_code import wrap_errors
from lossatlas.training.chargpt import CharGPT
from lossatlas.training.dataset import Dataset
from lossatlas.training.networks import cnn, mlp
from lossatlas.training.resnet import resnet20, resnet56
from lossatlas.training.seeding import seeded
from lossatlas.training.specs import Call, find_factory, is_factory, parse_call
from lossatlas.training.vit import ViT


@dataclass(frozen=True)
class Architecture:
    """A built-in model architecture.

    Attributes:
        build: function that builds it; its sizes are keywords.
        normalization: normalization of its images (see `images.normalized`).
    """

    build: Callable[..., nn.Module]
    normalization: str = "unit"


MODELS: dict[str, Architecture] = {
    "mlp": Architecture(mlp),
    "cnn": Architecture(cnn),
    "resnet20": Architecture(resnet20, "imagenet"),
    "resnet56": Architecture(resnet56, "imagenet"),
    "vit": Architecture(ViT, "standardized"),
    "chargpt": Architecture(CharGPT),
}


def build_model(
    spec: str, dataset: Dataset | None = None, *, seed: int = 0, **options: Any
) -> nn.Module:
    """Build a model by name, with sizes taken from the data.

    Args:
        spec: `mlp`, `cnn`, `resnet20`, `resnet56`, `vit` or `chargpt`, with optional arguments,
            as in `mlp(64, 64)` or `chargpt(layers=4, tied=False)`; or `package.module:factory`
            or `path/file.py:factory`, which returns a `torch.nn.Module`.
        dataset: data set that determines the sizes. A factory receives by name those of its
            parameters without defaults that are `dataset` or names of `sizes_of`. Lazy layers
            are initialized with two examples.
        seed: seed of the initial weights; global random states are not changed.
        **options: arguments by name, with precedence over those in `spec` and the sizes of the
            data.

    Returns:
        A new model on the CPU.

    Raises:
        UnknownNameError: the name or option is unknown (the message gives the nearest match).
        ArgumentError: a size is invalid, or given neither by the data nor by the options.
        ModelError: the factory fails, or does not return a module.
        FileError: the file of the factory is missing.

    Examples:
        >>> build_model("mlp(32)", features=64, outputs=10).fc1
        Linear(in_features=64, out_features=32, bias=True)
    """
    check_at_least("seed", seed, 0)
    if not is_factory(spec):
        call = parse_call("model", spec)
        return _built(call, _known(call.name).build, dataset, seed, options, follow=True)
    call = parse_call("model", spec)
    return _built(call, find_factory("model", call.name), dataset, seed, options, follow=False)


def initial_weights(
    spec: str, dataset: Dataset | None = None, *, seeds: Iterable[int], **options: Any
) -> list[dict[str, Tensor]]:
    """Initial weights from `build_model` for several seeds, to start an ensemble.

    Args:
        spec: as for `build_model`.
        dataset: data set that determines the sizes.
        seeds: one seed per member.
        **options: as for `build_model`.

    Returns:
        Trainable parameters, one mapping name -> tensor per seed.

    Raises:
        AtlasError: as for `build_model`.
    """
    models = (build_model(spec, dataset, seed=seed, **options) for seed in seeds)
    return [
        {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        for model in models
    ]


def normalization_of(spec: str) -> str:
    """Image normalization that a model expects.

    Args:
        spec: as for `build_model`.

    Returns:
        A name for `load_dataset(..., normalize=)`; "unit" for user-defined models.

    Raises:
        UnknownNameError: the name is unknown.

    Examples:
        >>> normalization_of("resnet20")
        'imagenet'
    """
    if is_factory(spec):
        return "unit"
    return _known(parse_call("model", spec).name).normalization


def sizes_of(dataset: Dataset) -> dict[str, int]:
    """Sizes of a data set that models use."""
    first = dataset.inputs[0]
    sizes = {"outputs": dataset.outputs}
    if dataset.task == "language":
        return sizes | {"vocabulary": dataset.outputs, "block": len(first)}
    if first.is_floating_point():
        sizes["features"] = first.numel()
    if first.ndim == 3:
        sizes |= dict(zip(("channels", "height", "width"), first.shape, strict=True))
    return sizes


def _known(name: str) -> Architecture:
    if name not in MODELS:
        raise UnknownNameError(
            f"`model` must be one of {', '.join(MODELS)}, package.module:factory, "
            f"path/file.py:factory; got {name!r}{nearest(name, MODELS)}."
        )
    return MODELS[name]


def _built(
    call: Call,
    build: Callable[..., Any],
    dataset: Dataset | None,
    seed: int,
    options: dict[str, Any],
    *,
    follow: bool,
) -> nn.Module:
    requested = call.options | options
    accepted = _keywords(build)
    if accepted is not None:
        for name in requested:
            check_one_of(f"option of {call.name}", name, accepted)
        sizes = {} if dataset is None else {"dataset": dataset, **sizes_of(dataset)}
        wanted = (
            accepted
            if follow
            else [name for name, has_default in accepted.items() if not has_default]
        )
        requested = {name: sizes[name] for name in wanted if name in sizes} | requested
        _check_complete(call, accepted, requested)
    remedy = "check its arguments or its code."
    failing = wrap_errors(f"`model`: '{call.name}'", remedy, ModelError)
    with seeded(seed, "initial weights"), failing:
        model = build(*call.args, **requested)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise ModelError(
                f"'{call.name}' must return a torch.nn.Module; it returned {kind}."
            )
        _give_sizes(model, dataset)
    return model


def _give_sizes(model: nn.Module, dataset: Dataset | None) -> None:
    # Lazy layers take their sizes from what they are given first, their weights from the seed.
    if dataset is None or not any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        return
    with torch.no_grad(), evaluation_mode(model, "eval"):
        model(dataset.inputs[:2])


def _keywords(build: Callable[..., Any]) -> dict[str, bool] | None:
    # Keyword -> whether it has a default; None where the callable takes any or does not tell.
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: p.default is not p.empty for p in parameters if p.kind in named}


def _check_complete(call: Call, accepted: dict[str, bool], requested: dict[str, Any]) -> None:
    missing = [
        name
        for name, has_default in accepted.items()
        if not has_default and name not in requested
    ]
    if len(missing) > len(call.args):
        raise ArgumentError(
            f"'{call.name}' needs {', '.join(f'`{name}`' for name in missing)}, which the data "
            f"do not determine; pass it, as in '{call.name}({missing[0]}=...)', or use another "
            "model."
        )
