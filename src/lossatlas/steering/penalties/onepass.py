"""Cross-entropy and the trace of the head's curvature, with gradients written by hand."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class OnePass(torch.autograd.Function):
    """(logits, features, targets, (rho, ones)) -> (total, penalty), one softmax both ways.

    Autograd would keep and walk a dozen small tensors; where the network is small they cost
    as much as its layers. Rows all count alike. Only the total has a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, features: Tensor, targets: Tensor, plan: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """The loss; what its gradient is made of is kept."""
        rho, ones = ctx.plan = plan
        log_p = logits.log_softmax(-1)
        base = F.nll_loss(log_p, targets)
        p = log_p.exp_()
        squares, reach = _squares(p), _lean_squares(features).add_(ones)
        # The product last: a reach that is infinite must not meet itself in a difference.
        penalty = torch.sub(1, squares).mul_(reach).mean()
        ctx.save_for_backward(logits, features, targets, p, squares, reach)
        ctx.mark_non_differentiable(penalty)
        ctx.set_materialize_grads(False)
        return torch.add(base, penalty, alpha=rho), penalty

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients in logits and features."""
        if grads[0] is None:
            return None, None, None, None
        rho, ones = ctx.plan
        logits, features, targets, p, squares, reach = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Somebody differentiates the gradient: it must hang on the inputs.
            p = logits.softmax(-1)
            squares, reach = _squares(p), _squares(features) + ones
        scale = grads[0] / len(targets)
        bent = (p - squares) * (reach * (-2 * rho))
        less = p.new_full((len(p), 1), -1.0)
        outer = torch.addcmul(p, p, bent).scatter_add(1, targets[:, None], less)
        inner = features * torch.sub(1, squares).mul(scale * (2 * rho))
        return outer * scale, inner, None, None


def _squares(rows: Tensor) -> Tensor:
    return rows.square().sum(-1, keepdim=True)


def _lean_squares(rows: Tensor) -> Tensor:
    # No copy of the features on the way; autocast leaves norms in float32.
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return length.square_()
