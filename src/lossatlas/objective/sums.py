"""Sums over the batches of one process: moments of losses, pairs of examples, gradients."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from lossatlas.linalg.params import Params
from lossatlas.objective.batches import Batch
from lossatlas.objective.point import State
from lossatlas.objective.standard_errors import Moments
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import Measured, Total, Weighted, pairs_of

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

Metrics = Mapping[str, Callable[[nn.Module, Batch], Measured]]
_NO_DERIVATIVE = (
    "use operations that have it; a loss that holds gradients itself needs "
    "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around attention."
)


class GradientSums(NamedTuple):
    """The sum of gradients by name, its weight, and whether the loss reached a parameter."""

    total: dict[str, Tensor]
    weight: float
    reached: bool


def loss_moments(objective: "Objective", metrics: Metrics, params: Params | None) -> Moments:
    """Moments of the loss and of some metrics at a point."""
    moments = Moments(1, 1 + len(metrics))

    def walk() -> None:
        for batch in objective.iter_batches():
            measured = objective.measure_all(batch, metrics)
            if not objective.idling:
                moments.add_batch(measured, partial(objective.size_of, batch), 0)

    with torch.no_grad():
        objective.with_params(params, walk)
    return moments


def example_pairs(objective: "Objective", params: Params | None) -> Weighted:
    """Sum and weight of every example at a point, float64 on the CPU."""

    def walk() -> list[Weighted]:
        pairs = [
            (_pairs_on_host(objective, batch), objective.idling)
            for batch in objective.iter_batches()
        ]
        return [pair for pair, is_idle in pairs if not is_idle]

    with torch.no_grad():
        pairs = objective.with_params(params, walk)
    empty = torch.zeros(0, dtype=torch.float64)
    return Weighted(
        torch.cat([empty, *(pair.sums for pair in pairs)]),
        torch.cat([empty, *(pair.weights for pair in pairs)]),
    )


# What the loss returned is let go before the next batch.
def _pairs_on_host(objective: "Objective", batch: Batch) -> Weighted:
    pair = pairs_of(objective.batch_loss(batch))
    return Weighted(pair.sums.cpu().double(), pair.weights.cpu().double())


def gradient_sums(objective: "Objective", params: Params | None) -> GradientSums:
    """The gradient of the sum of losses at a point."""
    point = State(objective.params) if params is None else objective.split(params)
    leaves = {name: value.detach().requires_grad_() for name, value in point.params.items()}
    total = {name: _wide_zeros(value) for name, value in leaves.items()}

    def walk() -> list[tuple[float, bool]]:
        return [
            (batch_total.weight, _add_gradient(objective, batch_total, leaves, total))
            for batch_total in map(objective.total, objective.iter_batches())
        ]

    with torch.enable_grad():
        parts = objective.with_params({**leaves, **point.buffers}, walk)
    weight = sum(weight for weight, _ in parts)
    return GradientSums(total, weight, any(reached for _, reached in parts))


def _add_gradient(
    objective: "Objective",
    batch_total: Total,
    leaves: dict[str, Tensor],
    total: dict[str, Tensor],
) -> bool:
    # Whether the loss of this batch depends on any leaf: it may be of other experts.
    mean = batch_total.mean
    if not mean.requires_grad:
        return False
    written = objective.volatile.names
    leaving = f", which leaves something in '{written[0]}'," if written else ""
    with wrap_errors(f"the gradient of `loss`{leaving}", _NO_DERIVATIVE):
        parts = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
    for name, part in zip(leaves, parts, strict=True):
        if part is not None:
            total[name].add_(part, alpha=batch_total.scale)
    # Without checks it is not known which parameters are unused.
    return not objective.is_checked or any(part is not None for part in parts)


def _wide_zeros(value: Tensor) -> Tensor:
    # Sums over batches overflow half precision.
    return torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
