"""Activations: what a layer gives or is given, for every example; the last linear layer."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of, check_text, nearest
from lossatlas.curvature.arguments import check_objective
from lossatlas.errors import DataError, ModelError, UnknownNameError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.batches import tensors

Reduction = Literal["flatten", "mean", "last"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
Side = Literal["output", "input"]
SIDES: tuple[str, ...] = get_args(Side)


def activations(
    objective: Objective,
    layer: str,
    *,
    side: Side = "output",
    reduce: Reduction = "flatten",
    params: Params | None = None,
) -> Tensor:
    """What a layer gives, or is given, for every example.

    Args:
        objective: model, loss, batches.
        layer: name of a module, as in `model.named_modules()`; of one that runs several times
            a batch the last time counts.
        side: "output", or "input": the first tensor it is called with.
        reduce: what to do with further axes: "flatten" keeps all, "mean" averages over them,
            "last" takes the last of axis 1 (the last token of (batch, token, feature)).
        params: where; the present weights by default.

    Returns:
        float64, shape (examples, features), on the CPU.

    Raises:
        UnknownNameError: no such module, side or reduction.
        DataError: the layer is not run, or gives no tensor with an axis of examples.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import activations
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, loss, [(torch.eye(2), torch.zeros(2, 3))])
        >>> activations(objective, "1").shape
        torch.Size([2, 3])
    """
    check_objective(objective, params)
    check_text("layer", layer)
    check_one_of("side", side, SIDES)
    check_one_of("reduce", reduce, REDUCTIONS)
    known = dict(objective.model.named_modules())
    if layer not in known:
        raise UnknownNameError(
            f"`layer`: no module is called '{layer}'{nearest(layer, known)}."
        )
    kept = _kept(objective, known[layer], side, params)
    rows = [_reduced(value, reduce).double().cpu() for value in kept]
    if not rows or len({value.shape[1] for value in rows}) > 1:
        kind = "tensors of different widths" if rows else "no tensor"
        raise DataError(
            f"'{layer}' has {kind} as its {side}; name a layer that every batch runs through."
        )
    return torch.cat(rows)


def _kept(
    objective: Objective, module: nn.Module, side: Side, params: Params | None
) -> list[Tensor]:
    last: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        first = next(tensors((args, kwargs) if side == "input" else output), None)
        if first is not None and first.ndim:
            # A copy: what runs next may write into it.
            last[:] = [first.detach().clone()]

    def walk() -> list[Tensor]:
        objective.prepare()
        outputs = []
        for batch in objective.iter_batches():
            last.clear()
            objective.loss(objective.model, objective.handed(batch))
            outputs += last
        return outputs

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            return objective.with_params(params, walk)
    finally:
        handle.remove()


def _reduced(value: Tensor, reduce: Reduction) -> Tensor:
    if value.ndim == 1:
        return value[:, None]
    if value.ndim == 2:
        return value
    if reduce == "last":
        return value[:, -1].flatten(1)
    return value.flatten(2).mean(2) if reduce == "mean" else value.flatten(1)


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
    """Find the last linear layer and keep what it is given."""
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
            return objective.with_params(params, walk)
    finally:
        for handle in handles:
            handle.remove()
