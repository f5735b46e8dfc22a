"""The head of a network: its last linear layer, and the features that it is given."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossatlas.curvature.activations import activations
from lossatlas.curvature.groups import target_classes
from lossatlas.errors import ModelError
from lossatlas.linalg.params import Params
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
    """Find the head and keep what it is given."""
    name, weight, bias = _last_linear(objective, params)
    features = activations(objective, name, side="input", reduce="last", params=params)
    return Head(name, features, weight, bias)


def _last_linear(
    objective: Objective, params: Params | None
) -> tuple[str, Tensor, Tensor | None]:
    layers = {m: n for n, m in objective.model.named_modules() if isinstance(m, nn.Linear)}
    ran: list[nn.Module] = []

    def walk() -> tuple[str, Tensor, Tensor | None]:
        objective.loss(objective.model, objective.handed(objective.first_batch()))
        last = ran[-1] if ran else None
        if not isinstance(last, nn.Linear):
            raise ModelError("no linear layer runs in the model, so it has no head to look at.")
        bias = None if last.bias is None else last.bias.detach().clone()
        return layers[last], last.weight.detach().clone(), bias

    handles = [
        layer.register_forward_pre_hook(lambda module, args: ran.append(module))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            return objective.at(params, walk)
    finally:
        for handle in handles:
            handle.remove()


def head_classes(objective: Objective) -> Tensor:
    """The class of every example."""
    return torch.cat(objective.gathered(lambda batch: target_classes(batch).cpu()))
