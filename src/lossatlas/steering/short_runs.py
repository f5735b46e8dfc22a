"""Short trainings from the weights of an objective, on copies: the model stays as it is."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from lossatlas.curvature.optimizer_names import check_momentum
from lossatlas.errors import ArgumentError, LossError
from lossatlas.linalg.params import Params, snapshot
from lossatlas.objective import Batch, Objective
from lossatlas.objective.modes import norm_layers
from lossatlas.objective.names import own_parameters
from lossatlas.objective.user_code import wrap_errors

Floats = NDArray[np.float64]
BuildOptimizer = Callable[[Sequence[Any], float], Optimizer]
# Momentum of "sgd" where none is given.
MOMENTUM = 0.9
_BUILT: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=MOMENTUM),
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr),
}
OPTIMIZERS = tuple(_BUILT)
# A loss this many times the first one is a divergence.
_BLOWN_UP = 4.0


def training_objective(objective: Objective, batches: int) -> Objective:
    """The first batches, with normalization layers as they are in training."""
    part = objective.part(list(islice(objective.iter_batches(), batches)))
    if norm_layers(objective.model):
        part.mode = "train"
    return part


def optimizer_builder(
    optimizer: str | Optimizer | BuildOptimizer,
    objective: Objective,
    momentum: float | None = None,
) -> BuildOptimizer:
    """How to make a fresh optimizer over copies of the weights, at a learning rate."""
    if momentum is not None:
        return _sgd(optimizer, momentum)
    if isinstance(optimizer, str):
        if optimizer not in _BUILT:
            raise ArgumentError(
                f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, an optimizer of torch, "
                f"or a function (params, lr) -> optimizer; got {optimizer!r}."
            )
        return _BUILT[optimizer]
    if isinstance(optimizer, Optimizer):
        return _like(optimizer, objective)
    if callable(optimizer):
        return optimizer
    raise ArgumentError(
        "`optimizer` must be a name, an optimizer of torch, or a function (params, lr) -> "
        f"optimizer; got {type(optimizer).__name__}."
    )


def _sgd(optimizer: object, momentum: float) -> BuildOptimizer:
    check_momentum(momentum)
    if optimizer != "sgd":
        given = repr(optimizer) if isinstance(optimizer, str) else "one that is given"
        raise ArgumentError(
            f"`momentum` is that of optimizer='sgd'; got {momentum:g} with {given}: leave it "
            "out, or choose 'sgd'."
        )
    return lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=momentum)


# The same class and settings, without its state; groups keep the ratios of their rates.
def _like(optimizer: Optimizer, objective: Objective) -> BuildOptimizer:
    parameters = own_parameters(objective).values()
    place = {id(parameter): index for index, parameter in enumerate(parameters)}
    highest = max(float(group["lr"]) for group in optimizer.param_groups)
    held = [
        [place[id(p)] for p in g["params"] if id(p) in place] for g in optimizer.param_groups
    ]
    if not any(held) or not highest > 0:
        raise ArgumentError(
            "`optimizer` must hold parameters of the objective's model, with a rate above 0."
        )

    def build(params: Sequence[Any], lr: float) -> Optimizer:
        groups = []
        for group, places in zip(optimizer.param_groups, held, strict=True):
            kept = {key: group[key] for key in optimizer.defaults if key in group}
            rate = lr * float(group["lr"]) / highest
            if places:
                groups.append({**kept, "params": [params[at] for at in places], "lr": rate})
        return type(optimizer)(groups, lr=lr)  # type: ignore[call-arg]

    return build


def train_along(
    objective: Objective, build: BuildOptimizer, rates: Floats
) -> tuple[Floats, dict[str, Tensor]]:
    """Train from the present weights, one update a rate, over the batches again and again.

    Returns:
        The loss of each batch before its update (NaN after a divergence), and the weights.
    """
    weights = {n: v.requires_grad_() for n, v in snapshot(objective.params).items()}
    with wrap_errors("`optimizer`", "it is called as optimizer(params, lr).", ArgumentError):
        optimizer = build(list(weights.values()), float(rates[0]))
    base = [float(group["lr"]) / float(rates[0]) for group in optimizer.param_groups]
    losses = np.full(len(rates), math.nan)
    with torch.enable_grad(), objective.session():
        for at, (rate, batch) in enumerate(zip(rates, _walks(objective), strict=False)):
            losses[at] = _gradient(objective, weights, batch)
            if not losses[at] < max(_BLOWN_UP * losses[0], losses[0] + _BLOWN_UP):
                losses[at] = math.nan
                break
            for group, share in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * share
            with wrap_errors("`optimizer`", "its step() takes no closure.", ArgumentError):
                optimizer.step()
    return losses, {name: value.detach() for name, value in weights.items()}


def _walks(objective: Objective) -> Iterator[Batch]:
    while True:
        yield from objective.iter_batches()


def _gradient(objective: Objective, weights: dict[str, Tensor], batch: Batch) -> float:
    mean = objective.swapped(weights, lambda: objective.total(batch)).mean
    if not mean.requires_grad:
        raise LossError(
            "`loss` does not lead back to the parameters; return the tensor itself."
        )
    slopes = torch.autograd.grad(mean, list(weights.values()), allow_unused=True)
    for value, part in zip(weights.values(), slopes, strict=True):
        value.grad = part
    return float(mean.detach())


def unit_losses(objective: Objective, params: Params) -> Floats:
    """The loss of every example at a point, or of every batch where only means exist."""
    if objective.unit == "examples":
        return np.asarray(objective.example_losses(params).numpy())

    def walk() -> list[float]:
        return [float(objective.total(batch).mean) for batch in objective.iter_batches()]

    with torch.no_grad():
        return np.array(objective.with_params(params, walk))
