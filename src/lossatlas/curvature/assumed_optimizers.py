"""Optimizers as they would step from the present weights, where none is given."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lossatlas.curvature.batch_statistics import as_in_training
from lossatlas.curvature.optimizer_steps import OptimizerState
from lossatlas.curvature.pieces import pieces_of
from lossatlas.errors import ArgumentError
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch, batch_size
from lossatlas.objective.names import own_parameters

# Adam's second moments come from at least so many sets of at most so many examples.
_MIN_SETS, SET_SIZE = 8, 32


def plain_sgd(objective: Objective, lr: float, momentum: float) -> OptimizerState:
    """SGD without Nesterov momentum over the parameters of an objective."""
    parameters = list(own_parameters(objective).values())
    group = {"params": parameters, "lr": lr, "momentum": momentum, "nesterov": False}
    return OptimizerState([group], {})


def warm_adam(objective: Objective, lr: float) -> OptimizerState:
    """Adam as if its second moments had converged at these weights."""
    objective = as_in_training(objective)
    sets = _example_sets(objective)
    if len(sets) < _MIN_SETS:
        raise ArgumentError(
            f"Adam's second moments need {_MIN_SETS} sets of examples; there are {len(sets)}: "
            "take more examples, or pass a trained Adam as `optimizer`."
        )
    squares = {name: torch.zeros_like(value) for name, value in objective.params.items()}
    for examples in sets:
        for name, value in objective.part([examples]).gradient().items():
            squares[name] += value**2 / len(sets)
    parameters = list(own_parameters(objective).values())
    group = {"params": parameters, "lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
    state: dict[Tensor, Mapping[str, float | Tensor]] = {
        parameter: {"step": math.inf, "exp_avg_sq": squares[name]}
        for name, parameter in zip(squares, parameters, strict=True)
    }
    return OptimizerState([group], state)


def _example_sets(objective: Objective) -> list[Batch]:
    sizes = objective.map_batches(batch_size)
    if objective.mode == "train" and len(sizes) >= _MIN_SETS:
        return objective.map_batches(lambda batch: batch)
    # One example has no statistics of its own.
    smallest = 2 if objective.mode == "train" else 1
    return pieces_of(objective, max(smallest, min(SET_SIZE, sum(sizes) // _MIN_SETS)))
