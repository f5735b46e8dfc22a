"""The functions of toploss 0.1.0."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from lossatlas.steering import penalties as ours
from lossatlas.steering.penalties.nger import nger_loss, nger_weights

__all__ = [
    "apply_cvp_",
    "cvp_penalty",
    "dmta_penalty",
    "nger_loss",
    "nger_weights",
    "sasp_penalty",
    "sasp_penalty_closed_form",
    "sbmp_penalty",
]


def sasp_penalty_closed_form(
    logits: Tensor, features: Tensor, targets: Tensor, include_bias: bool = True
) -> Tensor:
    """`sasp_penalty(..., kind="fisher")` of lossatlas.

    Args:
        logits: shape (batch, classes).
        features: the input of the head, shape (batch, width).
        targets: class indices, or probabilities shaped like the logits.
        include_bias: whether the head has a bias. Default True.

    Returns:
        A scalar: the trace of the empirical Fisher matrix of the head.
    """
    return ours.sasp_penalty(
        logits, features, targets, kind="fisher", include_bias=include_bias
    )


def sasp_penalty(
    per_sample_losses: Tensor, params: Iterable[Tensor], create_graph: bool = True
) -> Tensor:
    """`per_example_sasp_penalty` of lossatlas.

    Args:
        per_sample_losses: shape (batch,), with their graph.
        params: those that require a gradient count.
        create_graph: whether the penalty can be differentiated. Default True.

    Returns:
        A scalar.
    """
    return ours.per_example_sasp_penalty(per_sample_losses, params, create_graph=create_graph)


def cvp_penalty(
    params: Iterable[Tensor], grads: Sequence[Tensor | None] | None = None, beta: float = 50.0
) -> Tensor:
    """`cvp_penalty(..., mode="expansion", scale_free=False)` of lossatlas.

    Args:
        params: weights.
        grads: one a weight; `.grad` by default.
        beta: steepness of the gate. Default 50.

    Returns:
        A scalar.
    """
    return ours.cvp_penalty(params, grads, beta, mode="expansion", scale_free=False)


def apply_cvp_(params: Iterable[Tensor], lam: float = 1e-2, beta: float = 50.0) -> None:
    """`apply_cvp_(..., mode="expansion", scale_free=False)` of lossatlas.

    Args:
        params: weights with `.grad`, to which the gated decay is added.
        lam: its weight. Default 1e-2.
        beta: steepness of the gate. Default 50.
    """
    ours.apply_cvp_(params, lam, beta, mode="expansion", scale_free=False)


def sbmp_penalty(
    clean_logits: Tensor,
    model_fn: Callable[[Tensor], Tensor],
    embeddings: Tensor,
    alpha: float = 5.0,
    symmetric_kl: bool = True,
) -> Tensor:
    """`sbmp_penalty` of lossatlas.

    Args:
        clean_logits: shape (batch, ..., classes).
        model_fn: embeddings -> logits.
        embeddings: shape (batch, ...).
        alpha: length of the move. Default 5.
        symmetric_kl: average both directions. Default True.

    Returns:
        A scalar.
    """
    return ours.sbmp_penalty(clean_logits, model_fn, embeddings, alpha, symmetric_kl)


def dmta_penalty(grad_vector: Tensor, slow_ema: Tensor, eps: float = 1e-3) -> Tensor:
    """`dmta_penalty` of lossatlas.

    Args:
        grad_vector: the gradient, with its graph.
        slow_ema: the average; no gradient goes through it.
        eps: share of the length of the average below which a gradient counts as none. The
            original's absolute 1e-12 leaves a gradient of 1e11 at zero.

    Returns:
        A scalar in [0, 2].
    """
    return ours.dmta_penalty(grad_vector, slow_ema, eps)
