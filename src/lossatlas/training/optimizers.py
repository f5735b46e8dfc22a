"""Optimizers by name."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lossatlas.checks import check_one_of, check_positive
from lossatlas.errors import ArgumentError

Optimizer = torch.optim.Optimizer
# Name -> (class, learning rate and further settings where the caller gives none).
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
}


def build_optimizer(
    optimizer: str | Callable[..., Optimizer],
    weights: Iterable[Tensor],
    lr: float | None = None,
) -> Optimizer:
    """Build an optimizer by name or from a callable."""
    if lr is not None:
        check_positive("lr", lr)
    requested = {} if lr is None else {"lr": lr}
    if isinstance(optimizer, str):
        check_one_of("optimizer", optimizer, OPTIMIZERS)
        make, settings = OPTIMIZERS[optimizer]
        return make(list(weights), **(settings | requested))
    made = optimizer(list(weights), **requested)
    if not isinstance(made, Optimizer):
        kind = type(made).__name__
        raise ArgumentError(
            f"`optimizer` must return a torch.optim.Optimizer; it returned {kind}."
        )
    return made
