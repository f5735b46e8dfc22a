"""Zero-cost proxies: numbers of an initialization from a few passes over the probe.

Gradient and curvature of many initializations at once, with the proxies made of them (SNIP,
GraSP, gradient quotient), and proxies of the function itself (SynFlow, NASWOT, jacov).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.rng import generator
from lossatlas.training.criteria import Loss
from lossatlas.training.members import member_losses

Array = NDArray[np.float64]
# Forward passes of each: a backward pass counts as two.
COST = {"SynFlow": 3.0, "NASWOT": 1.0, "jacov": 3.0}
_RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6)
# Random probes of the trace, and power steps towards the largest eigenvalue.
PROBES, STEPS = 8, 15
# A gradient costs three forward passes, a product with the Hessian two gradients.
GRADIENT, PRODUCT = 3.0, 6.0
# Forward passes that each number takes by itself; what is shared is in each of them.
DERIVATIVE_COST = {
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
    return {name: _plain(values[name]) for name in DERIVATIVE_COST}


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
        vector = {n: v / _column(length, v) for n, v in vector.items()}
        image = stack.product(vector)
        value, vector = _dot(vector, image), image
    return {"largest eigenvalue": value}


def _dot(a: Params, b: Params) -> Tensor:
    parts = [(a[name].detach() * b[name].detach()).double().flatten(1).sum(1) for name in a]
    return torch.stack(parts).sum(0)


def _absolute(a: Params) -> dict[str, Tensor]:
    return {name: value.abs() for name, value in a.items()}


def _column(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like).view(-1, *(1,) * (like.ndim - 1))


def _signs(shape: torch.Size, source: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=source).float() * 2 - 1


def _normal(shape: torch.Size, source: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=source)


def _plain(value: Tensor) -> Array:
    return np.asarray(value.detach().double().cpu().numpy())


def proxies(model: nn.Module, batch: Batch, params: Params) -> dict[str, float]:
    """Proxies of one initialization; NaN where the network or the data have no such number."""
    inputs = batch[0] if isinstance(batch, list | tuple) else None
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return dict.fromkeys(COST, np.nan)
    routes: dict[str, Callable[[nn.Module, Tensor, Params], float]] = {
        "SynFlow": _synflow,
        "NASWOT": _naswot,
        "jacov": _jacov,
    }
    with preserved_modes(model):
        model.eval()
        return {name: route(model, inputs, params) for name, route in routes.items()}


def _synflow(model: nn.Module, inputs: Tensor, params: Params) -> float:
    # Products of absolute weights overflow float32 in deep networks.
    leaves = {name: value.abs().double().requires_grad_() for name, value in params.items()}
    frozen = _rest(model, params)
    with torch.enable_grad():
        out = functional_call(
            model, leaves | frozen, (torch.ones_like(inputs[:1]).double(),), strict=False
        )
        gradients = torch.autograd.grad(
            out.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    parts = zip(leaves.values(), gradients, strict=True)
    total = sum(float((w.detach() * g).abs().sum()) for w, g in parts)
    return float(np.log(total)) if total > 0 else float("nan")


def _rest(model: nn.Module, params: Params) -> dict[str, Tensor]:
    others = (*model.named_parameters(), *model.named_buffers())
    return {
        name: value.detach().double() if value.is_floating_point() else value
        for name, value in others
        if name not in params
    }


def _naswot(model: nn.Module, inputs: Tensor, params: Params) -> float:
    codes: list[Tensor] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        codes.append((output > 0).flatten(1).float())

    layers = [m for m in model.modules() if isinstance(m, _RECTIFIERS)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            functional_call(model, dict(params), (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    if not codes:
        return float("nan")
    code = torch.cat(codes, 1)
    agreement = (code @ code.mT + (1 - code) @ (1 - code).mT).double()
    # More examples than units make the agreement singular; the unit keeps it a number.
    sign, value = torch.linalg.slogdet(agreement + torch.eye(len(code), dtype=torch.float64))
    return float(value) if float(sign) > 0 and bool(value.isfinite()) else float("nan")


def _jacov(model: nn.Module, inputs: Tensor, params: Params) -> float:
    # More examples than inputs make the correlations singular.
    leaf = inputs[: max(2, inputs[0].numel() // 2)].detach().clone().requires_grad_()
    with torch.enable_grad():
        total = functional_call(model, dict(params), (leaf,)).sum()
        rows = torch.autograd.grad(total, leaf)[0].flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()) or not bool(lengths.isfinite().all()):
        return float("nan")
    values = torch.linalg.eigvalsh((rows / lengths) @ (rows / lengths).mT).clamp_min(0) + 1e-5
    return float(-(values.log() + 1 / values).sum())
