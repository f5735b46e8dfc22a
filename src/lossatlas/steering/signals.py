"""What optimizer and weights say of the next update: loss model, noise, distance, edge."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.errors import ArgumentError, LossError
from lossatlas.guard import PreservedModules, preserved_rng
from lossatlas.linalg.krylov import Lanczos
from lossatlas.rng import generator
from lossatlas.shards import is_sharded
from lossatlas.steering.probe import Closure, check_closure
from lossatlas.steering.shards import local, summed

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
    supported = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    groups: list[Group] = optimizer.param_groups
    odd = any(g.get("nesterov") or g.get("amsgrad") or g.get("maximize") for g in groups)
    if not isinstance(optimizer, supported) or odd:
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
    beta, buffer = group["momentum"], state.get("momentum_buffer")
    if beta == 0:
        return g, g
    step = g if buffer is None else beta * buffer + (1 - group["dampening"]) * g
    # Without dampening torch's buffer is the average from zero, times 1 / (1 - beta).
    return (step if group["dampening"] == beta else (1 - beta) * step), step


def _beta(group: Group) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return summed(torch.sum(local(a).double() * local(b).double()), [a])


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
    estimates = []
    for group, kept in zip(optimizer.param_groups, before, strict=False):
        pairs = [
            (p.grad.detach(), old)
            for p, old in zip(group["params"], kept, strict=False)
            if p.grad is not None and old is not None
        ]
        if not pairs:
            estimates.append((math.nan, math.nan))
            continue
        variance = 0.5 * sum(float(_dot(g - old, g - old)) for g, old in pairs)
        estimates.append((variance, sum(float(_dot(g, old)) for g, old in pairs)))
    missing = len(optimizer.param_groups) - len(estimates)
    return (*estimates, *((math.nan, math.nan),) * missing)


def layer_groups(model: nn.Module) -> list[Group]:
    """Parameter groups for an optimizer, one a layer, so that each can have its own rate.

    Args:
        model: any module.

    Returns:
        Groups of the parameters that require gradients, with the layer's "name".

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> [group["name"] for group in layer_groups(model)]
        ['0', '1']
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


# Coordinates watched of each tensor; the lengths of large tensors are extrapolated from them.
_WATCHED = 512
# Steps that are measured together at most.
_WAITING = 16


class DistanceTracker:
    """Follows some coordinates of all weights over a training.

    Lengths are Euclidean, over all weights. A step length is divided by the scale of the rate
    that made the step: what a step at scale 1 would have been.

    Args:
        optimizer: its weights are followed, those of later groups from then on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._start: Tensor | None = None
        self._last: Tensor | None = None
        self._sizes: list[int] = []
        self._shares = torch.zeros(())
        self._max_distance, self._squares = 0.0, 0.0
        # Squared lengths of steps, and after them squared distances, that are not read yet;
        # with what the former are still to be multiplied by.
        self._lengths: list[tuple[Tensor, float]] = []
        # Weights after steps that are not measured yet, all made at the same scales.
        self._waiting: list[Tensor] = []
        self._scales: list[float] = []
        # Views of the watched coordinates, and where the weights were when they were made.
        self._views: list[Tensor] | None = None
        self._memory: list[int] | None = None

    def opening(self) -> tuple[float, float]:
        """Before the first step: the length of the weights, and of the step to come."""
        size = length = 0.0
        for group in self._optimizer.param_groups:
            normalized = "betas" in group
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                here, slope = local(weight.detach()), local(weight.grad)
                size += float(here.float().square().sum())
                moved = here.numel() if normalized else float(slope.float().square().sum())
                length += float(group.get("initial_lr", group["lr"])) ** 2 * moved
        both = summed(torch.tensor([size, length], dtype=torch.float64), self._every())
        return math.sqrt(float(both[0])), math.sqrt(float(both[1]))

    def track(self, scales: list[float]) -> None:
        """Take a step in; nothing is synchronized with a device."""
        if self._last is None or self._start is None:
            return self.begin()
        if len(self._waiting) == _WAITING or scales != self._scales:
            self._measure()
        sampled = len(self._last)
        present = self._sampled()
        if len(present) > sampled:
            self._waiting.append(present[:sampled])
            self._scales = list(scales)
            self._measure()
            self._start = torch.cat([self._start, present[sampled:]])
            self._last = present
            return None
        self._waiting.append(present)
        self._scales = list(scales)
        return None

    def _measure(self) -> None:
        # Steps at the same scale are measured together: few operations for several of them.
        if not self._waiting or self._last is None or self._start is None:
            return
        points = torch.stack([self._last, *self._waiting])
        present = points[1:]
        squares = torch.cat([present - points[:-1], present - self._start]).square_()
        squares.mul_(self._shares[: squares.shape[1]])
        factor = self._unscale(squares[: len(present)])
        self._lengths.append((squares.sum(1), factor))
        self._last, self._waiting = self._waiting[-1], []

    def begin(self) -> None:
        """Note where the weights are, before the first step."""
        self._sizes, self._waiting = [], []
        self._start = self._last = self._sampled()

    def _sampled(self) -> Tensor:
        # One vector of all watched coordinates: a handful of operations a step, not per tensor.
        every = self._every()
        if self._views is not None and [p.data_ptr() for p in every] == self._memory:
            return torch.cat(self._views).float()
        weights = [local(w.detach()) for w in every]
        parts = [_sample(w) for w in weights]
        self._views = self._memory = None
        if _stay(every):
            self._views = [w.reshape(-1)[:: _spacing(w.numel())] for w in weights]
            self._memory = [p.data_ptr() for p in every]
        if len(parts) != len(self._sizes):
            device = parts[0].device
            self._sizes = [len(part) for part in parts]
            shares = [w.numel() / max(n, 1) for w, n in zip(weights, self._sizes, strict=True)]
            counts = torch.tensor(self._sizes, device=device)
            # The dtype of the samples, whatever torch's default is.
            each = torch.tensor(shares, dtype=torch.float32, device=device)
            self._shares = each.repeat_interleave(counts)
        return torch.cat([part.to(parts[0].device) for part in parts])

    def _unscale(self, steps: Tensor) -> float:
        # Squared moves of the coordinates, a row a step, become those at scale 1, but for a
        # factor that all have.
        inverse = [scale**-2 if scale > 0 else 0.0 for scale in self._scales]
        if len(set(inverse)) == 1:
            return inverse[0]
        each = [inverse[self._group(index)] for index in range(len(self._sizes))]
        counts = torch.tensor(self._sizes, device=steps.device)
        scaled = torch.tensor(each, dtype=torch.float32, device=steps.device)
        steps.mul_(scaled.repeat_interleave(counts)[: steps.shape[1]])
        return 1.0

    def read(self) -> tuple[float, float]:
        """The greatest distance and the length of all steps so far."""
        self._measure()
        # The greatest sum over all processes is not the sum of the greatest.
        for both, factor in self._lengths:
            lengths = summed(both, self._every()).tolist()
            self._squares += factor * sum(lengths[: len(lengths) // 2])
            farthest = max(lengths[len(lengths) // 2 :])
            self._max_distance = max(self._max_distance, math.sqrt(farthest))
        self._lengths = []
        return self._max_distance, math.sqrt(self._squares)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        # Steps that wait are kept as they are: measured now, they would round differently.
        waiting, self._waiting = self._waiting, []
        distance, _ = self.read()
        self._waiting = waiting
        return {
            "start": self._named(self._start),
            "last": self._named(self._last),
            "waiting": [self._named(each) for each in waiting],
            "scales": list(self._scales),
            "distance": distance,
            "squares": self._squares,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._start, self._last, self._waiting = None, None, []
        if state["start"]:
            # Sizes are found where views are made.
            self._sizes, self._views = [], None
            here = self._sampled()
            kept = (state["start"], state["last"], *state.get("waiting", ()))
            self._start, self._last, *self._waiting = (
                torch.cat(list(each.values())).to(here.device) for each in kept
            )
            self._scales = list(state.get("scales", ()))
        self._max_distance, self._squares = state["distance"], state["squares"]

    def _named(self, flat: Tensor | None) -> dict[str, Tensor]:
        if flat is None:
            return {}
        return {str(i): part.clone() for i, part in enumerate(torch.split(flat, self._sizes))}

    def _every(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _group(self, index: int) -> int:
        for number, group in enumerate(self._optimizer.param_groups):
            index -= len(group["params"])
            if index < 0:
                return number
        return number


def _stay(weights: list[Tensor]) -> bool:
    # Whether views of the weights show them after every step.
    plain = not any(map(is_sharded, weights)) and all(p.is_contiguous() for p in weights)
    return plain and len({p.device for p in weights}) == 1


def _spacing(size: int) -> int:
    step = max(size // _WATCHED, 1)
    # An odd step does not stay within one column of a matrix whose width is even.
    return step | 1


def _sample(weight: Tensor) -> Tensor:
    flat = weight.reshape(-1)
    return flat[:: _spacing(flat.numel())].float()


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
        device = weights[0].device
        # Autocast is for the pass of the closure; in half precision no Krylov basis holds.
        with torch.autocast(device.type, enabled=False):
            slopes = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            bent = {i: s for i, s in enumerate(slopes) if s is not None and s.requires_grad}
            if not bent:
                raise LossError(
                    "the loss is linear in the weights, or does not depend on them."
                )

            def apply(flat: Tensor) -> Tensor:
                return _product(flat, weights, scales, bent)

            size = sum(w.numel() for w in weights)
            drawn = generator(seed, "edge", device=device)
            start = torch.randn(size, generator=drawn, device=device)
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
