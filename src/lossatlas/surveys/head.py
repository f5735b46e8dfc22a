"""The head of a network: its last linear layer, and the features that it is given."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.algebra.params import Params
from lossatlas.curvature.groups import target_classes
from lossatlas.errors import ModelError
from lossatlas.objective import Objective


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer that runs, and its inputs.

    Attributes:
        name: of the module.
        features: its input for every example, float64, shape (examples, features); of
            sequences the last place.
        weight: shape (outputs, features).
        bias: shape (outputs,), or None.
    """

    name: str
    features: Tensor
    weight: Tensor
    bias: Tensor | None


def read_head(objective: Objective, params: Params | None = None) -> Head:
    """Find the head and keep what it is given.

    Args:
        objective: model, loss, batches.
        params: where; the present weights by default.

    Returns:
        The head.

    Raises:
        ModelError: no linear layer runs.
        StructureError: names or shapes of `params` differ from those of the objective.
    """
    layers = {m: n for n, m in objective.model.named_modules() if isinstance(m, nn.Linear)}
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        # The last one to run stands last.
        seen.pop(module, None)
        seen[module] = args[0].detach()

    def walk() -> tuple[nn.Linear, list[Tensor], Tensor, Tensor | None]:
        kept, last = [], None
        for batch in objective.each_batch():
            seen.clear()
            objective.loss(objective.model, batch)
            last = next(reversed(seen), None)
            if last is not None:
                kept.append(_rows(seen[last]))
        if not isinstance(last, nn.Linear):
            raise ModelError("no linear layer runs in the model, so it has no head to look at.")
        bias = None if last.bias is None else last.bias.detach().clone()
        return last, kept, last.weight.detach().clone(), bias

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            last, kept, weight, bias = objective.at(params, walk)
    finally:
        for handle in handles:
            handle.remove()
    return Head(layers[last], torch.cat(kept), weight, bias)


def head_classes(objective: Objective) -> Tensor:
    """The class of every example.

    Args:
        objective: its batches are (input, class index).

    Returns:
        Shape (examples,).

    Raises:
        ArgumentError: the batches hold no class indices.
    """
    return torch.cat([target_classes(batch).cpu() for batch in objective.batches])


def _rows(value: Tensor) -> Tensor:
    # The last place of a sequence has seen all others.
    while value.ndim > 2:
        value = value[:, -1]
    return value.double().cpu()
