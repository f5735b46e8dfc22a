"""Activations: what a layer gives or is given, for every example."""

from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of, check_text, nearest
from lossatlas.curvature.arguments import check_objective
from lossatlas.errors import DataError, UnknownNameError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.batches import tensors

REDUCTIONS = ("flatten", "mean", "last")
SIDES = ("output", "input")


def activations(
    objective: Objective,
    layer: str,
    *,
    side: str = "output",
    reduce: str = "flatten",
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
        found = "tensors of different widths" if rows else "no tensor"
        raise DataError(
            f"'{layer}' has {found} as its {side}; name a layer that every batch runs through."
        )
    return torch.cat(rows)


def _kept(
    objective: Objective, module: nn.Module, side: str, params: Params | None
) -> list[Tensor]:
    last: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        first = next(tensors((args, kwargs) if side == "input" else output), None)
        if first is not None and first.ndim:
            # A copy: what runs next may write into it.
            last[:] = [first.detach().clone()]

    def walk() -> list[Tensor]:
        objective.prepare()
        found = []
        for batch in objective.each_batch():
            last.clear()
            objective.loss(objective.model, objective.handed(batch))
            found += last
        return found

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            return objective.at(params, walk)
    finally:
        handle.remove()


def _reduced(value: Tensor, reduce: str) -> Tensor:
    if value.ndim == 1:
        return value[:, None]
    if value.ndim == 2:
        return value
    if reduce == "last":
        return value[:, -1].flatten(1)
    return value.flatten(2).mean(2) if reduce == "mean" else value.flatten(1)
