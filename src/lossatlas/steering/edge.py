"""Rate times curvature: the largest eigenvalue as the optimizer sees it, by a short Lanczos."""

import torch
from torch import Tensor

from lossatlas.errors import LossError
from lossatlas.guard import preserved_rng
from lossatlas.linalg.krylov import Lanczos
from lossatlas.rng import generator
from lossatlas.steering.preserved_modules import PreservedModules
from lossatlas.steering.probe import Closure, check_closure
from lossatlas.steering.signals import is_adam


def read_edge(
    closure: Closure, optimizer: torch.optim.Optimizer, *, steps: int = 5, seed: int = 0
) -> tuple[float, float]:
    """The largest eigenvalue of D^(-1/2) R^(1/2) H R^(1/2) D^(-1/2) at the present weights."""
    check_closure(closure)
    weights, scales = _scaled(optimizer)
    with torch.enable_grad(), PreservedModules().watched(), preserved_rng():
        loss = closure()
        if isinstance(loss, Tensor) and loss.ndim == 1:
            loss = loss.mean()
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            raise LossError(
                "`closure` must give a scalar with its graph where curvature is read; got "
                f"{type(loss).__name__} without one: do not detach it or call .item()."
            )
        slopes = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        bent = {i: s for i, s in enumerate(slopes) if s is not None and s.requires_grad}
        if not bent:
            raise LossError("the loss is linear in the weights, or does not depend on them.")

        def apply(flat: Tensor) -> Tensor:
            return _product(flat, weights, scales, bent)

        size = sum(w.numel() for w in weights)
        drawn = generator(seed, "edge", device=weights[0].device)
        start = torch.randn(size, generator=drawn, device=weights[0].device)
        lanczos = Lanczos(apply, start, drawn)
        lanczos.extend(steps)
    ritz = lanczos.ritz()
    return float(ritz.values[-1]), float(ritz.bounds[-1])


def _product(
    flat: Tensor, weights: list[Tensor], scales: list[Tensor], slopes: dict[int, Tensor]
) -> Tensor:
    sizes = [w.numel() for w in weights]
    pieces = [
        piece.view_as(w) * scale
        for piece, w, scale in zip(torch.split(flat, sizes), weights, scales, strict=True)
    ]
    images = torch.autograd.grad(
        list(slopes.values()),
        weights,
        [pieces[i].to(weights[i]) for i in slopes],
        retain_graph=True,
        allow_unused=True,
    )
    turned = [
        torch.zeros_like(scale) if image is None else image.to(scale) * scale
        for image, scale in zip(images, scales, strict=True)
    ]
    return torch.cat([t.flatten() for t in turned])


def _scaled(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], list[Tensor]]:
    weights: list[Tensor] = []
    scales: list[Tensor] = []
    adam = is_adam(optimizer)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if not weight.requires_grad:
                continue
            scale = torch.full_like(weight, float(group["lr"]), dtype=torch.float32)
            state = optimizer.state.get(weight, {})
            if adam and "exp_avg_sq" in state:
                corrected = 1 - group["betas"][1] ** float(state["step"])
                square = state["exp_avg_sq"].float() / corrected
                scale = scale / (square.sqrt() + group["eps"])
            weights.append(weight)
            scales.append(scale.detach().sqrt())
    return weights, scales
