"""Kinds of models that cannot be measured as they are, each with its remedy."""

from torch import nn

from lossatlas.errors import ModelError

# Known by their modules, so that no package has to be imported for a look.
_FSDP = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torchao.quantization")


def check_whole(model: nn.Module) -> None:
    """Refuse what other weights do not reach although its parameters may all be there."""
    if _of(model, _FSDP):
        raise ModelError(
            f"{type(model).__name__} is sharded (FSDP), and its forward gathers shards of its "
            "own, so other weights do not reach it; measure a whole copy, loaded from a full "
            "state dict (get_model_state_dict with full_state_dict=True, or full_tensor() of "
            "each)."
        )


def why_nothing_moves(model: nn.Module) -> str:
    """Why a model may have no parameters of real numbers."""
    if _of(model, _QUANTIZED) or any(not p.is_floating_point() for p in model.parameters()):
        return (
            "its weights are quantized (int8 codes), which cannot move by a little; measure "
            "the model before it is quantized"
        )
    return "nothing can move"


def _of(model: nn.Module, prefixes: tuple[str, ...]) -> bool:
    return any(
        kind.__module__.startswith(prefixes)
        for module in model.modules()
        for kind in type(module).__mro__
    )
