"""What to do where a model does not read the parameters that are swapped into it."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

_GENERAL = (
    "let `loss` call the model that it is given and no other model, and let modules read "
    "their parameters at every call (no captured lists, no merged or cached weights); or leave "
    "them out by params=."
)


def unmoved_remedy(model: nn.Module, names: Sequence[str]) -> str:
    """The remedy for the kind of model."""
    for module in model.modules():
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__}
        if any(kind.startswith(("keras.", "keras_core.")) for kind in kinds):
            return (
                "Keras layers read their own Variables and not the parameters of the torch "
                "module; rebuild the network from torch.nn modules."
            )
        if any(kind.startswith("torchrl.") for kind in kinds):
            return (
                "TorchRL's loss modules keep parameters of their own; make this one with "
                "functional=False where it has that, or take the actor or critic as the model "
                "and write the loss as a function of (model, batch)."
            )
        if getattr(module, "merged", None) is True and hasattr(module, "unmerge"):
            return (
                "its adapters are merged into the weights below them; take them out again with "
                "model.unmerge_adapter(), or move the base weights with params=."
            )
        if hasattr(module, "_hf_hook"):
            return (
                "accelerate's hooks put weights into place at every call; take them off with "
                "accelerate.hooks.remove_hook_from_submodules(model) first."
            )
    return next(_caches(model, names), _GENERAL)


def _caches(model: nn.Module, names: Sequence[str]) -> Iterator[str]:
    # Tensors beside parameters and buffers in the modules that hold these names, or in those
    # that hold these modules.
    paths = dict.fromkeys(path for name in names for path in _above(name))
    for path in paths:
        module = model.get_submodule(path)
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                yield (
                    f"'{path or type(module).__name__}' keeps a tensor in '{key}' that may "
                    "have been made of them; let it be made anew at every call (un-merge "
                    "adapters, drop the cached weights), or leave them out by params=."
                )


def _above(name: str) -> Iterator[str]:
    path = name
    while path:
        path = path.rpartition(".")[0]
        yield path
