"""Gradient and curvature of many initializations at once."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.rng import generator
from lossatlas.training.criteria import Loss
from lossatlas.training.members import member_losses

Array = NDArray[np.float64]
# Random probes of the trace, and power steps towards the largest eigenvalue.
PROBES, STEPS = 8, 15
# A gradient costs three forward passes, a product with the Hessian two gradients.
GRADIENT, PRODUCT = 3.0, 6.0
# Forward passes that each number takes by itself; what is shared is in each of them.
COST = {
    "gradient norm": GRADIENT,
    "SNIP": GRADIENT,
    "GraSP": GRADIENT + PRODUCT,
    "gradient quotient": GRADIENT + PRODUCT,
    "gradient curvature": GRADIENT + PRODUCT,
    "trace": GRADIENT + PROBES * PRODUCT,
    "frobenius": GRADIENT + PROBES * PRODUCT,
    "largest eigenvalue": GRADIENT + STEPS * PRODUCT,
}
_TINY = 1e-5


def derivatives(
    model: nn.Module, loss: Loss, batch: Batch, initial: Params, *, seed: int = 0
) -> dict[str, Array]:
    """Gradient, proxies made of it, trace and largest eigenvalue of the Hessian."""
    with preserved_modes(model), torch.enable_grad():
        model.eval()
        stack = _Stack(model, loss, batch, initial)
        values = _along_gradient(stack, initial) | _probed(stack, seed) | _powered(stack, seed)
    return {name: _plain(values[name]) for name in COST}


class _Stack:
    def __init__(self, model: nn.Module, loss: Loss, batch: Batch, initial: Params) -> None:
        self.leaves = {name: w.detach().clone().requires_grad_() for name, w in initial.items()}
        self.count = len(next(iter(initial.values())))
        frozen = {
            name: value.detach()
            for name, value in (*model.named_parameters(), *model.named_buffers())
            if name not in initial
        }
        buffers = {n: v.expand(self.count, *v.shape).clone() for n, v in frozen.items()}
        losses = member_losses(model, loss, shared=True)(self.leaves, buffers, batch)
        self.gradient = self._derived(losses.sum(), create_graph=True)

    def product(self, vector: Params) -> dict[str, Tensor]:
        total = torch.stack([(self.gradient[n] * v).sum() for n, v in vector.items()]).sum()
        if not total.requires_grad:
            # A loss that is linear in all weights has no second derivative.
            return {name: torch.zeros_like(value) for name, value in vector.items()}
        return self._derived(total)

    def draw(self, name: str, seed: int, index: int, how: Callable[..., Tensor]) -> Tensor:
        one = self.leaves[name][0]
        drawn = how(one.shape, generator(seed, "inits derivatives", name, index))
        return drawn.to(one).expand_as(self.leaves[name])

    def _derived(self, total: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
        parts = torch.autograd.grad(
            total,
            list(self.leaves.values()),
            allow_unused=True,
            materialize_grads=True,
            retain_graph=True,
            create_graph=create_graph,
        )
        return dict(zip(self.leaves, parts, strict=True))


def _along_gradient(stack: _Stack, initial: Params) -> dict[str, Tensor]:
    gradient = {name: value.detach() for name, value in stack.gradient.items()}
    image = stack.product(gradient)
    squares = _dot(gradient, gradient)
    snip = _dot(_absolute(initial), _absolute(gradient))
    quotient = torch.stack(
        [
            (image[name].abs() / (value.abs() + _TINY)).double().flatten(1).sum(1)
            for name, value in gradient.items()
        ]
    )
    size = sum(value[0].numel() for value in gradient.values())
    return {
        "gradient norm": squares.sqrt(),
        "SNIP": snip,
        "GraSP": -_dot(initial, image),
        "gradient quotient": quotient.sum(0) / size,
        "gradient curvature": _dot(gradient, image) / squares,
    }


def _probed(stack: _Stack, seed: int) -> dict[str, Tensor]:
    traces, squares = [], []
    for index in range(PROBES):
        probe = {name: stack.draw(name, seed, index, _signs) for name in stack.leaves}
        image = stack.product(probe)
        traces.append(_dot(probe, image))
        squares.append(_dot(image, image))
    return {
        "trace": torch.stack(traces).mean(0),
        "frobenius": torch.stack(squares).mean(0).sqrt(),
    }


def _powered(stack: _Stack, seed: int) -> dict[str, Tensor]:
    vector = {name: stack.draw(name, seed, -1, _normal) for name in stack.leaves}
    value = torch.zeros(stack.count)
    for _ in range(STEPS):
        length = _dot(vector, vector).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        vector = {n: v / _beside(length, v) for n, v in vector.items()}
        image = stack.product(vector)
        value, vector = _dot(vector, image), image
    return {"largest eigenvalue": value}


def _dot(a: Params, b: Params) -> Tensor:
    parts = [(a[name].detach() * b[name].detach()).double().flatten(1).sum(1) for name in a]
    return torch.stack(parts).sum(0)


def _absolute(a: Params) -> dict[str, Tensor]:
    return {name: value.abs() for name, value in a.items()}


def _beside(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like).view(-1, *(1,) * (like.ndim - 1))


def _signs(shape: torch.Size, source: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=source).float() * 2 - 1


def _normal(shape: torch.Size, source: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=source)


def _plain(value: Tensor) -> Array:
    return np.asarray(value.detach().double().cpu().numpy())
