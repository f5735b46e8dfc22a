"""Gradients of single examples, each from a pass over that example alone where it can be."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from lossatlas.errors import LossError, NonFiniteError
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.additivity import kernel_rounding
from lossatlas.objective.batches import cut
from lossatlas.objective.weighted import Weighted, pairs_of

# The loss of an example alone may be off by so much of the largest of its batch.
_TOLERANCE = 1e-4


def example_gradients(
    objective: Objective,
    batch: Batch,
    moved: Sequence[Tensor],
    kept: Iterable[int] | None = None,
) -> Iterator[tuple[list[Tensor], float]]:
    """The gradient of each example's loss, with its weight; examples without one are left out.

    It runs at the weights swapped in, gradients on.
    """
    with torch.no_grad():
        whole = pairs_of(objective.batch_loss(batch))
    rounding = max(_TOLERANCE, 4 * kernel_rounding(objective.model, whole.sums))
    tolerance = rounding * float(whole.sums.abs().max())
    graph: Weighted | None = None
    chosen = range(len(whole.weights)) if kept is None else kept
    for k in chosen:
        if not (weight := float(whole.weights[k])) > 0:
            continue
        one = None if graph else _alone(objective, batch, k, whole, tolerance)
        if one is None:
            # Examples of this batch depend on each other: a backward pass of all for each.
            graph = graph or pairs_of(objective.batch_loss(batch))
            one = graph.sums[k]
        parts = torch.autograd.grad(
            one / weight, moved, retain_graph=graph is not None, allow_unused=True
        )
        yield (
            [wide_gradient(part, value) for part, value in zip(parts, moved, strict=True)],
            weight,
        )


def _alone(
    objective: Objective, batch: Batch, k: int, whole: Weighted, tolerance: float
) -> Tensor | None:
    """The loss of one example from a batch of its own; None where it is another number."""
    try:
        pair = pairs_of(objective.batch_loss(cut(batch, k, k + 1)))
    except Exception:
        # Whatever a loss does with a batch that it cannot serve.
        return None
    if len(pair.sums) != 1 or float(pair.weights[0]) != float(whole.weights[k]):
        return None
    is_same = abs(float(pair.sums[0].detach()) - float(whole.sums[k])) <= tolerance
    return pair.sums[0] if is_same else None


def wide_gradient(part: Tensor | None, value: Tensor) -> Tensor:
    """A gradient in float32 or wider; zeros for what the loss does not depend on."""
    part = torch.zeros_like(value) if part is None else part
    return part.to(torch.promote_types(part.dtype, torch.float32))


def squared_gradients(objective: Objective, params: Params) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher matrix: the mean square of examples' gradients."""
    if objective.unit != "examples":
        raise LossError(
            "the empirical Fisher matrix needs the loss of every example; let `loss` return "
            "one number an example, shape (batch,)."
        )
    state = objective.split(params)
    leaves = {n: v.detach().clone().requires_grad_() for n, v in state.params.items()}

    def walk() -> dict[str, Tensor]:
        total = {name: wide_gradient(None, value).detach() for name, value in leaves.items()}
        counted = 0.0
        for batch in objective.iter_batches():
            for parts, weight in example_gradients(objective, batch, list(leaves.values())):
                counted += weight
                for into, part in zip(total.values(), parts, strict=True):
                    into.addcmul_(part, part, value=weight)
        return {name: value / (counted or 1.0) for name, value in total.items()}

    with torch.enable_grad():
        squares = objective.with_params({**leaves, **state.buffers}, walk)
    for name, value in squares.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"a gradient in '{name}' is not finite at these weights; look for NaN in "
                "the data, or for a loss that overflows."
            )
    return squares
