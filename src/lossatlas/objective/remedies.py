"""Models that cannot be measured as they are: what kind they are, and what to do."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from lossatlas.errors import ModelError
from lossatlas.linalg.params import qualified_name
from lossatlas.objective.state import INTERNAL

_GENERAL = (
    "let `loss` call the model that it is given and no other model, and let modules read "
    "their parameters at every call (no captured lists, no merged or cached weights); or leave "
    "them out by params=."
)
# Known by their modules, so that no package has to be imported for a look.
_FSDP1 = "FullyShardedDataParallel"
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torchao.quantization")
_KERAS, _TORCHRL = ("keras.", "keras_core."), ("torchrl.",)
# How deep lists in lists are looked into.
_DEPTH = 3


def check_whole(model: nn.Module) -> None:
    """Refuse what other weights do not reach although its parameters may all be there."""
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    if _FSDP1 in kinds:
        raise ModelError(
            f"{type(model).__name__} is sharded by {_FSDP1}, which flattens parameters into "
            "one; shard it with torch.distributed.fsdp.fully_shard, or measure a whole copy, "
            "loaded from a full state dict (get_model_state_dict with full_state_dict=True)."
        )


def why_nothing_moves(model: nn.Module) -> str:
    """Why a model may have no parameters of real numbers."""
    if any(_of(module, _QUANTIZED) for module in model.modules()) or any(
        not value.is_floating_point() for value in model.parameters()
    ):
        return (
            "its weights are quantized (int8 codes), which cannot move by a little; measure "
            "the model before it is quantized"
        )
    listed = next(iter(in_plain_containers(model)), None)
    if listed is not None:
        return f"'{listed}' is in a plain container; {PLAIN_CONTAINERS}"
    return "nothing can move"


PLAIN_CONTAINERS = (
    "keep modules in nn.ModuleList or nn.ModuleDict and parameters in nn.ParameterList, since "
    "torch does not look into lists and dicts"
)


def in_plain_containers(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that a model holds in lists and dicts, where torch does not find them."""
    own = set(map(id, model.parameters()))
    return {
        name: value
        for path, module in model.named_modules()
        for key, held in vars(module).items()
        if key not in INTERNAL
        for name, value in _parameters_in(qualified_name(path, key), held, _DEPTH)
        if id(value) not in own
    }


def _parameters_in(name: str, held: object, depth: int) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(held, nn.Parameter):
        yield name, held
    elif isinstance(held, nn.Module):
        yield from ((f"{name}.{inner}", value) for inner, value in held.named_parameters())
    elif isinstance(held, list | tuple | dict) and depth:
        items = held.items() if isinstance(held, dict) else enumerate(held)
        for key, item in items:
            yield from _parameters_in(f"{name}[{key!r}]", item, depth - 1)


def unmoved_remedy(model: nn.Module, names: Sequence[str]) -> str:
    """The remedy for the kind of model."""
    for module in model.modules():
        if _of(module, _KERAS):
            return (
                "Keras layers read their own Variables and not the parameters of the torch "
                "module; rebuild the network from torch.nn modules."
            )
        if _of(module, _TORCHRL):
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


def _of(module: nn.Module, packages: tuple[str, ...]) -> bool:
    return any(f"{kind.__module__}.".startswith(packages) for kind in type(module).__mro__)


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
