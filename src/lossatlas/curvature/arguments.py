"""Checks of what every instrument of this room is given."""

from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError, DataError, NonFiniteError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective

# More probes, points or steps than this are a mistake, not a wish.
_MOST = 10_000_000


def check_objective(objective: Any, params: Params | None = None) -> None:
    """Require an objective, and a point of it where one is given."""
    if not isinstance(objective, Objective):
        raise ArgumentError(
            "`objective` must be an Objective, as in la.Objective(model, loss, batches); got "
            f"{type(objective).__name__}."
        )
    if params is not None:
        objective.split(params)


def check_count(argument: str, value: Any, least: int) -> None:
    """Require a whole number between `least` and ten million."""
    check_at_least(argument, value, least)
    if value > _MOST:
        raise ArgumentError(f"`{argument}` must be at most {_MOST:,}; got {value!r}.")


def check_tensor(argument: str, value: Any) -> None:
    """Require a tensor."""
    if not isinstance(value, Tensor):
        raise ArgumentError(f"`{argument}` must be a tensor; got {type(value).__name__}.")


def checked_features(features: Tensor) -> Tensor:
    """Require a finite matrix with examples."""
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.numel():
        shape = (
            tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        )
        raise DataError(f"`features` must have shape (examples, features); got {shape}.")
    if not bool(torch.isfinite(features).all()):
        raise NonFiniteError("a feature is NaN or infinite; leave such examples out.")
    return features.detach().double().cpu()
