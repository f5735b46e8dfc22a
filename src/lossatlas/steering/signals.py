"""What an optimizer's state says about the next update: model of the loss, noise, momentum."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.errors import ArgumentError

Optimizer = torch.optim.Optimizer
Group = dict[str, Any]


def momentum_of(optimizer: Optimizer) -> float:
    """The momentum of an optimizer's first group."""
    group = optimizer.param_groups[0]
    if "betas" in group:
        return float(group["betas"][0])
    return float(group.get("momentum", 0.0))


def is_adam(optimizer: Optimizer) -> bool:
    """Whether an optimizer keeps the moments of Adam."""
    return all("betas" in group and "eps" in group for group in optimizer.param_groups)


def model_signals(optimizer: Optimizer, loss: float) -> dict[str, float]:
    """What `MoMoPolicy` needs, just before an update."""
    adam = is_adam(optimizer)
    known = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    groups: list[Group] = optimizer.param_groups
    odd = any(g.get("nesterov") or g.get("amsgrad") or g.get("maximize") for g in groups)
    if not isinstance(optimizer, known) or odd:
        raise ArgumentError(
            "MoMoPolicy needs SGD, Adam or AdamW without nesterov, amsgrad and maximize; got "
            f"{type(optimizer).__name__}."
        )
    beta = momentum_of(optimizer)
    if any(_beta(group) != beta for group in groups):
        raise ArgumentError("MoMoPolicy needs one momentum for all groups.")
    plain = all(g.get("dampening", 0.0) == beta for g in groups)
    corrected = adam or (beta > 0 and not plain)
    total = {"loss": loss, "gradient": 0.0, "average": 0.0, "slope": 0.0}
    with torch.no_grad():
        for group in groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _add(total, optimizer.state.get(weight, {}), group, weight, adam)
    return total | {"beta": beta, "corrected": float(corrected)}


def _add(
    total: dict[str, float], state: dict[str, Any], group: Group, weight: Tensor, adam: bool
) -> None:
    w, g, rate, decay = weight.detach(), weight.grad, float(group["lr"]), group["weight_decay"]
    decoupled = bool(group.get("decoupled_weight_decay", False)) and adam
    if g is None:
        return
    if decay and not decoupled:
        # A coupled decay is a part of the loss that torch differentiates by itself.
        total["loss"] += 0.5 * decay * float(_dot(w, w))
        g = g.add(w, alpha=decay)
    average, step = _adam(state, group, g) if adam else _sgd(state, group, g)
    if decay and decoupled:
        step = step.add(w, alpha=decay)
    total["gradient"] += float(_dot(g, w))
    total["average"] += float(_dot(average, w))
    total["slope"] += rate * float(_dot(average, step))


def _adam(state: dict[str, Any], group: Group, g: Tensor) -> tuple[Tensor, Tensor]:
    (first, second), count = group["betas"], float(state.get("step", 0)) + 1
    mean = g * (1 - first) if not state else state["exp_avg"].lerp(g, 1 - first)
    square = g * g * (1 - second)
    if state:
        square = square.add_(state["exp_avg_sq"], alpha=second)
    root = (square / (1 - second**count)).sqrt_().add_(group["eps"])
    return mean, mean / (1 - first**count) / root


def _sgd(state: dict[str, Any], group: Group, g: Tensor) -> tuple[Tensor, Tensor]:
    beta, kept = group["momentum"], state.get("momentum_buffer")
    if beta == 0:
        return g, g
    step = g if kept is None else beta * kept + (1 - group["dampening"]) * g
    # Without dampening torch's buffer is the average from zero, times 1 / (1 - beta).
    return (step if group["dampening"] == beta else (1 - beta) * step), step


def _beta(group: Group) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.sum(a.double() * b.double())


def kept_gradients(optimizer: Optimizer) -> list[list[Tensor | None]]:
    """Copies of the gradients of all groups."""
    return [
        [None if p.grad is None else p.grad.detach().clone() for p in group["params"]]
        for group in optimizer.param_groups
    ]


def gradient_noise(
    optimizer: Optimizer, before: list[list[Tensor | None]]
) -> tuple[tuple[float, float], ...]:
    """Variance and squared mean of the gradient of each group, from two updates in a row.

    Half the squared difference |g - g'|^2 / 2 estimates the variance, the inner product
    <g, g'> the squared length of the mean; a movement of the weights in between counts as
    variance. Both are unbiased and noisy, and the second may be negative: average many
    readings before dividing one by the other.

    Args:
        optimizer: with the present gradients.
        before: those of the update before.

    Returns:
        One pair (variance, squared mean) a group; NaN where a gradient is missing.
    """
    found = []
    for group, kept in zip(optimizer.param_groups, before, strict=False):
        pairs = [
            (p.grad.detach(), old)
            for p, old in zip(group["params"], kept, strict=False)
            if p.grad is not None and old is not None
        ]
        if not pairs:
            found.append((math.nan, math.nan))
            continue
        variance = 0.5 * sum(float(_dot(g - old, g - old)) for g, old in pairs)
        found.append((variance, sum(float(_dot(g, old)) for g, old in pairs)))
    missing = len(optimizer.param_groups) - len(found)
    return (*found, *((math.nan, math.nan),) * missing)


def layer_groups(model: nn.Module) -> list[Group]:
    """Parameter groups for an optimizer, one a layer, so that each can have its own rate.

    Args:
        model: any module.

    Returns:
        Groups of the parameters that require gradients, with the layer's "name".
    """
    groups: list[Group] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in _own(module.parameters(recurse=False)) if id(p) not in seen]
        seen |= {id(p) for p in own}
        if own:
            groups.append({"params": own, "name": name})
    return groups


def _own(params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in params if p.requires_grad]
