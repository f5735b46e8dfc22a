"""CVP: weight decay with a gate that looks where the step goes."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of, is_number
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_weight, paired

GateMode = Literal["cautious", "expansion"]
MODES: tuple[str, ...] = get_args(GateMode)
_REMEDY = "call it between backward() and step(), or give `grads`"


def cvp_gate(
    param: Tensor, grad: Tensor, *, mode: GateMode, beta: float, scale_free: bool = True
) -> Tensor:
    """How much of the decay each weight gets.

    A step of gradient descent shrinks a weight where `param * grad > 0` and grows it where
    that is negative. "expansion" opens the gate for weights that the step grows (the original
    CVP), "cautious" for those that it shrinks anyway (Cautious Weight Decay, which switches
    the other ones off): opposite rules.

    Args:
        param: any shape.
        grad: what the step subtracts, up to a factor; the same shape.
        mode: "cautious" or "expansion".
        beta: steepness of the sigmoid; infinity makes a gate that is open or closed (and open
            at zero, as in the paper).
        scale_free: divide `param * grad` by the root mean squares of both, so that the gate
            does not depend on their units. Default True.

    Returns:
        Shares in [0, 1], without gradient.

    Raises:
        ArgumentError: whole numbers.

    Examples:
        >>> w, g = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5])
        >>> cvp_gate(w, g, mode="cautious", beta=math.inf)
        tensor([1., 0.])
    """
    for argument, tensor in (("param", param), ("grad", grad)):
        if not tensor.is_floating_point():
            raise ArgumentError(
                f"`{argument}` must hold floating numbers; got {tensor.dtype}: give weights "
                "and their gradients."
            )
    with torch.no_grad():
        agreement = param * grad if mode == "cautious" else -param * grad
        if math.isinf(beta):
            return (agreement >= 0).to(param.dtype)
        if scale_free:
            size = _rms(param) * _rms(grad)
            agreement = torch.where(size > 0, agreement / size, 0.0)
        return torch.sigmoid(beta * agreement)


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


def cvp_penalty(
    params: Iterable[Tensor],
    grads: Sequence[Tensor | None] | None = None,
    beta: float = 50.0,
    *,
    mode: GateMode = "cautious",
    scale_free: bool = True,
) -> Tensor:
    """Half the gated sum of squares of the weights; its gradient is gate * weight.

    Args:
        params: weights, with gradient.
        grads: one a weight (None leaves it out); by default `.grad` of each.
        beta: as in `cvp_gate`. Default 50.
        mode: "cautious" or "expansion". Default "cautious".
        scale_free: as in `cvp_gate`. Default True; False with mode="expansion" is the
            original, whose gate is all but constant at ordinary sizes of gradients.

    Returns:
        A scalar, summed over all weights.

    Raises:
        ArgumentError: no gradients at all (as after `zero_grad()`), or other shapes.
        UnknownNameError: an unknown mode.

    Source: "cautious": Cautious Weight Decay, arXiv:2510.12402; "expansion": Topological Loss
        Engineering, doi:10.5281/zenodo.20497841.

    Examples:
        >>> w, g = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5])
        >>> cvp_penalty([w], [g], math.inf).item()
        0.5
    """
    _check(mode, beta)
    pairs = paired(params, grads, _REMEDY)
    total = pairs[0][0].new_zeros(())
    for param, grad in pairs:
        gate = cvp_gate(param, grad, mode=mode, beta=beta, scale_free=scale_free)
        total = total + 0.5 * (gate * param.square()).sum().to(total)
    return total


def apply_cvp_(
    params: Iterable[Tensor],
    weight: float = 1e-2,
    beta: float = 50.0,
    *,
    mode: GateMode = "cautious",
    scale_free: bool = True,
    lr: float | None = None,
    grads: Sequence[Tensor | None] | None = None,
) -> None:
    """Decay the weights through the gate, in place and without a graph.

    Args:
        params: weights.
        weight: of the penalty, >= 0. Default 1e-2.
        beta: as in `cvp_gate`. Default 50.
        mode: "cautious" or "expansion". Default "cautious".
        scale_free: as in `cvp_gate`. Default True.
        lr: None adds `weight * gate * param` to `.grad` (coupled: an adaptive optimizer
            rescales it); a learning rate subtracts `lr * weight * gate * param` from the
            weights (decoupled).
        grads: what the step subtracts, up to a factor; by default `.grad` of each.

    Raises:
        ArgumentError: no gradients at all, other shapes, or a negative number.
        UnknownNameError: an unknown mode.

    Examples:
        >>> w, g = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5])
        >>> apply_cvp_([w], 0.1, math.inf, lr=1.0, grads=[g])
        >>> w
        tensor([ 0.9000, -1.0000])
    """
    _check(mode, beta)
    check_weight("weight", weight)
    if lr is not None:
        check_weight("lr", lr)
    with torch.no_grad():
        for param, grad in paired(params, grads, _REMEDY):
            gate = cvp_gate(param, grad, mode=mode, beta=beta, scale_free=scale_free)
            if lr is not None:
                param.addcmul_(gate, param, value=-lr * weight)
                continue
            if param.grad is None:
                raise ArgumentError(
                    "a coupled decay is added to `.grad`, which is None; call backward() "
                    "first, or give `lr`."
                )
            param.grad.addcmul_(gate, param, value=weight)


class CVPRegularizer(nn.Module):
    """`weight` times `cvp_penalty`.

    Args:
        weight: of the penalty, >= 0. Default 1e-2.
        beta: as in `cvp_gate`. Default 50.
        mode: "cautious" or "expansion". Default "cautious".
        scale_free: as in `cvp_gate`. Default True.

    Raises:
        ArgumentError: a negative weight.
        UnknownNameError: an unknown mode.

    Examples:
        >>> w, g = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5])
        >>> round(CVPRegularizer(0.1, math.inf)([w], [g]).item(), 4)
        0.05
    """

    def __init__(
        self,
        weight: float = 1e-2,
        beta: float = 50.0,
        *,
        mode: GateMode = "cautious",
        scale_free: bool = True,
    ) -> None:
        super().__init__()
        _check(mode, beta)
        self.weight, self.beta = check_weight("weight", weight), beta
        self.mode, self.scale_free = mode, scale_free

    def forward(
        self, params: Iterable[Tensor], grads: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """The weighted penalty.

        Args:
            params: weights, with gradient.
            grads: one a weight; by default `.grad` of each.

        Returns:
            A scalar.
        """
        return self.weight * cvp_penalty(
            params, grads, self.beta, mode=self.mode, scale_free=self.scale_free
        )


class CautiousDecay:
    """Cautious Weight Decay for any optimizer: gated by the update that it really makes.

    Hooks on the optimizer see each weight before and after its step; `update = before - after`
    is what the paper gates on, preconditioned and with momentum. Give the optimizer itself
    `weight_decay=0`. Keeps one copy of the weights during a step.

    Args:
        optimizer: any.
        weight_decay: strength, >= 0; a step takes `lr * weight_decay * gate * before` off.
            Default 1e-2.
        mode: "cautious" or "expansion". Default "cautious".
        beta: infinity, the paper's, is a mask; see `cvp_gate`.

    Raises:
        ArgumentError: a negative number.
        UnknownNameError: an unknown mode.

    Source: arXiv:2510.12402, Algorithm 1.

    Examples:
        >>> w = torch.tensor([1.0, -1.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([w], lr=0.1)
        >>> decay = CautiousDecay(optimizer, 0.5)
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> w.detach()
        tensor([ 0.8500, -1.1000])
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weight_decay: float = 1e-2,
        *,
        mode: GateMode = "cautious",
        beta: float = math.inf,
    ) -> None:
        _check(mode, beta)
        self.weight_decay = check_weight("weight_decay", weight_decay)
        self.mode, self.beta = mode, beta
        self._before: list[list[Tensor]] = []
        self._hooks = (
            optimizer.register_step_pre_hook(self._keep),
            optimizer.register_step_post_hook(self._decay),
        )

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._before = [
            [p.detach().clone() for p in group["params"]] for group in optimizer.param_groups
        ]

    def _decay(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group, kept in zip(optimizer.param_groups, self._before, strict=True):
            for param, before in zip(group["params"], kept, strict=True):
                if param.grad is None:
                    continue
                update = before - param.detach()
                gate = cvp_gate(before, update, mode=self.mode, beta=self.beta)
                with torch.no_grad():
                    param.addcmul_(gate, before, value=-float(group["lr"]) * self.weight_decay)
        self._before = []


def _check(mode: GateMode, beta: float) -> None:
    check_one_of("mode", mode, MODES)
    if not is_number(beta) or not beta > 0:
        raise ArgumentError(
            f"`beta` must be a number > 0 (infinity makes a mask); got {beta!r}."
        )
