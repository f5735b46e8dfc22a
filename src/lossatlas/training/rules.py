"""Optimizers for many networks at once: rules on stacked weights, in place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# One list holds a tensor for each parameter, shape (members, ...).
Stack = Sequence[Tensor]


class Rule(Protocol):
    """An update rule with state, for one training run."""

    def step(self, weights: Stack, gradients: Stack, rates: Tensor) -> None:
        """Move the weights in place."""
        ...


@dataclass
class SGD:
    """v = momentum v + g + decay w;  w = w - rate v, as `torch.optim.SGD`.

    Attributes:
        decay: weight decay of each member, shape (members,).
        momentum: momentum of all members.
        velocity: created at the first step.
    """

    decay: Tensor
    momentum: float = 0.9
    velocity: list[Tensor] | None = None

    def step(self, weights: Stack, gradients: Stack, rates: Tensor) -> None:
        """Move the weights in place."""
        if bool(self.decay.any()):
            for weight, gradient in zip(weights, gradients, strict=True):
                gradient.addcmul_(weight, per_member(self.decay, weight))
        if self.velocity is None:
            self.velocity = list(gradients)
        else:
            torch._foreach_mul_(self.velocity, self.momentum)
            torch._foreach_add_(self.velocity, list(gradients))
        for weight, velocity in zip(weights, self.velocity, strict=True):
            weight.addcmul_(velocity, per_member(rates, weight), value=-1)


@dataclass
class AdamW:
    """Adam with weight decay apart from the gradient, as `torch.optim.AdamW`.

    Attributes:
        decay: weight decay of each member, shape (members,).
        betas: decay rates of the mean and the mean square.
        eps: added to the root.
        mean: created at the first step.
        square: created at the first step.
        count: number of steps.

    Source: Loshchilov and Hutter, ICLR 2019, algorithm 2, arXiv:1711.05101.
    """

    decay: Tensor
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    mean: list[Tensor] | None = None
    square: list[Tensor] | None = None
    count: int = 0

    def step(self, weights: Stack, gradients: Stack, rates: Tensor) -> None:
        """Move the weights in place."""
        grown = list(gradients)
        self.mean = self.mean or [torch.zeros_like(weight) for weight in weights]
        self.square = self.square or [torch.zeros_like(weight) for weight in weights]
        self.count += 1
        first, second = self.betas
        torch._foreach_lerp_(self.mean, grown, 1 - first)
        torch._foreach_mul_(self.square, second)
        torch._foreach_addcmul_(self.square, grown, grown, 1 - second)
        roots = torch._foreach_sqrt(self.square)
        torch._foreach_div_(roots, (1 - second**self.count) ** 0.5)
        torch._foreach_add_(roots, self.eps)
        steps = torch._foreach_div(self.mean, roots)
        for weight, step in zip(weights, steps, strict=True):
            weight.mul_(per_member(1 - rates * self.decay, weight))
            weight.addcmul_(step, per_member(rates / (1 - first**self.count), weight), value=-1)


def per_member(numbers: Tensor, like: Tensor) -> Tensor:
    """One number per member, shaped to broadcast with a stacked tensor."""
    return numbers.view(-1, *(1,) * (like.ndim - 1))
