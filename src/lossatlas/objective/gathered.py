"""Sharded models as one process would hold them: whole weights, and nothing sent in a pass.

A sharded module gathers its weights by its own hooks, which give no second derivative. With
whole weights in the places of the pieces, and without these hooks, it is an ordinary module.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lossatlas.memory import free_memory
from lossatlas.objective.in_place import is_collective
from lossatlas.objective.lines import coarsest, noted_kinds
from lossatlas.objective.selfcheck import PASSED, UNKNOWN, Check
from lossatlas.ranks import Ranks
from lossatlas.shards import groups_of, is_sharded, meshes_of, reshard, whole
from lossatlas.text import byte_size
from lossatlas.tracebacks import reason_of

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# Whole weights beside vectors of the same length.
_COPIES = 2
# How closely a pass with whole weights gives the value of one with pieces, whose sums are taken
# in another order; twice the rounding where passes are made in half precision.
_CLOSE = 1e-5
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_SPREAD = "torch.distributed."


def whole_weights(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors of what is not given; all processes that hold pieces must ask."""
    reshard(model)
    weights = {
        name: whole(value.detach())
        for name, value in model.named_parameters()
        if name not in given
    }
    for name, value in model.named_buffers():
        if is_sharded(value) and name not in given:
            weights[name] = whole(value.detach())
    return weights


@contextmanager
def without_sharding(model: nn.Module) -> Iterator[None]:
    """Let modules run without what `fully_shard` and `parallelize_module` hooked to them."""
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for module in model.modules():
            for place in _HOOKS:
                hooks = getattr(module, place)
                kept = OrderedDict((k, hook) for k, hook in hooks.items() if not _sends(hook))
                if len(kept) < len(hooks):
                    before.append((module, place, hooks))
                    setattr(module, place, kept)
        yield
    finally:
        for module, place, hooks in before:
            setattr(module, place, hooks)


def _sends(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_SPREAD)


def is_compiled(model: nn.Module) -> bool:
    """Whether a module runs as compiled code."""
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )


def decide_gathering(objective: "Objective") -> None:
    """Find out whether whole weights serve; all processes that hold pieces must call."""
    model = objective.model
    if objective.placed is None or objective.derivatives == "differences":
        return
    if is_collective(model) and not is_compiled(model):
        objective.checks["gathered"] = _check(objective)


def gathers(objective: "Objective") -> bool:
    """Whether derivatives are taken through whole weights; reads what was decided."""
    check = objective.checks.get("gathered")
    return check is not None and check.status == PASSED


def _check(objective: "Objective") -> Check:
    # A pass with whole weights gives the value of the model as it is.
    groups = sharding_groups(objective.model)
    reason = agreed(groups, _lacks_memory(objective))
    gap, coarser = math.nan, ""
    if not reason:
        try:
            gap, rounding, coarser = _gap(objective)
            if not gap <= max(_CLOSE, 2 * rounding):
                reason = f"a pass with whole weights gives another value (off by {gap:.2g})"
        # Whatever a module does that is written for its own piece of the weights.
        except Exception as error:
            reason = f"whole weights cannot be put into the model ({reason_of(error)})"
        reason = agreed(groups, reason)
    if reason:
        sentence = f"{reason}, so derivatives are differences of gradients"
        return Check("gathered", UNKNOWN, sentence=sentence)
    sentence = "whole weights on every process give the value of the sharded model"
    return Check("gathered", PASSED, gap, f"{sentence}{agreed(groups, coarser)}")


def watched_groups(model: nn.Module) -> list[Any]:
    """The groups in which passes of a model send, where failures can be told to all."""
    # Code is compiled anew, or not at all, where operations are looked at.
    return [] if is_compiled(model) else groups_of(dict.fromkeys(meshes_of(model)))


def sharding_groups(model: nn.Module) -> list[Ranks]:
    """The groups of processes that hold pieces of a model."""
    return [Ranks(group) for group in groups_of(dict.fromkeys(meshes_of(model)))]


def agreed(groups: list[Ranks], reason: str) -> str:
    """What one process of these groups has to say, if any has."""
    # One that cannot is enough: the others would wait for it.
    for ranks in groups:
        reason = next(filter(None, ranks.gather(reason)), "")
    return reason


def _lacks_memory(objective: "Objective") -> str:
    whole_bytes = sum(v.numel() * v.element_size() for v in objective.model.parameters())
    free = free_memory(objective.device)
    if free is not None and objective.device.type == "cpu":
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if free is None or _COPIES * whole_bytes <= free:
        return ""
    size, room = byte_size(whole_bytes), byte_size(free)
    return f"whole weights ({size}) do not fit beside vectors in {room}"


def _gap(objective: "Objective") -> tuple[float, float, str]:
    # Relative, the coarsest rounding of what modules give out, and whether it is lost.
    batch, kinds = objective.first_batch(), {torch.float32}
    finer = {torch.float32}

    def mean() -> float:
        return float(objective.total(batch).mean.detach())

    with torch.no_grad(), objective.session():
        with noted_kinds(kinds):
            apart = objective.swapped({}, mean)
        with noted_kinds(finer):
            together = objective.gathered({}, mean)
    coarser = _of_another_function(kinds, finer)
    if apart == together or not (math.isfinite(apart) or math.isfinite(together)):
        return 0.0, 0.0, coarser
    return abs(apart - together) / abs(apart or 1.0), coarsest(kinds), coarser


def _of_another_function(sharded: set[torch.dtype], gathered: set[torch.dtype]) -> str:
    # `MixedPrecisionPolicy` casts in hooks, which are off where weights are whole.
    if coarsest(sharded) <= coarsest(gathered):
        return ""
    names = [str(max(k, key=lambda d: torch.finfo(d).eps))[6:] for k in (sharded, gathered)]
    return (
        f"; values, maps and gradients are of its passes in {names[0]}, but products with "
        f"curvature matrices are of the same model in {names[1]}, which is another function"
    )
