"""Steps of an optimizer from here: the edge of stability, the gradient and its noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossatlas.curvature import Stability, edge_of_stability, gradient_noise
from lossatlas.curvature.pieces import pieces_of
from lossatlas.curvature.stability import Steps
from lossatlas.errors import ArgumentError
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch, batch_size
from lossatlas.surveys.context import Context, Parts
from lossatlas.surveys.instrument_result import Quantity, estimated

# Adam's second moments come from at least so many sets of at most so many examples.
_SETS, _SET = 8, 32
_NO_RATE = (
    "no learning rate was given; pass lr= or optimizer= (--lr 0.1 on the command line) to "
    "compare it with the curvature"
)


def measure_stability(site: Context) -> Parts:
    """The learning rate against the edge of stability."""
    objective, lr, optimizer = site.objective, site.lr, site.optimizer
    parts: Parts = {}
    if lr is not None:
        rate = lr
        parts["descent"] = lambda: _edge(site, descent(objective, rate))
        parts["adam"] = lambda: _edge(site, warm_adam(objective, rate))
    if optimizer is not None:
        given = optimizer
        parts["optimizer"] = lambda: _edge(site, given)
    return parts or {"descent": _without_rate}


def _without_rate() -> Stability:
    raise ArgumentError(_NO_RATE)


def _edge(site: Context, optimizer: Steps) -> Stability:
    return edge_of_stability(site.objective, optimizer, seed=site.seed)


@dataclass(frozen=True, eq=False)
class Rule:
    """How an optimizer would step from here. One of torch's takes seconds to build at first.

    Attributes:
        param_groups: as those of torch's optimizers.
        state: as theirs.
    """

    param_groups: Sequence[Mapping[str, Any]]
    state: Mapping[Tensor, Mapping[str, Any]]


def _parameters(objective: Objective) -> list[torch.nn.Parameter]:
    every = dict(objective.model.named_parameters())
    return [every[name] for name in objective.names]


def descent(objective: Objective, lr: float) -> Rule:
    """Gradient descent."""
    group = {"params": _parameters(objective), "lr": lr, "momentum": 0.0, "nesterov": False}
    return Rule([group], {})


def warm_adam(objective: Objective, lr: float) -> Rule:
    """Adam as it would be after standing at these weights for long."""
    pieces = _pieces(objective)
    if len(pieces) < _SETS:
        raise ArgumentError(
            f"Adam's second moments need {_SETS} sets of examples; there are {len(pieces)}: "
            "take more examples, or pass an optimizer with its state."
        )
    squares = {name: torch.zeros_like(value) for name, value in objective.params.items()}
    for piece in pieces:
        for name, value in objective.part([piece]).gradient().items():
            squares[name] += value**2 / len(pieces)
    parameters = _parameters(objective)
    group = {"params": parameters, "lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
    state: dict[Tensor, Mapping[str, Any]] = {
        parameter: {"step": math.inf, "exp_avg_sq": squares[name]}
        for name, parameter in zip(squares, parameters, strict=True)
    }
    return Rule([group], state)


def _pieces(objective: Objective) -> list[Batch]:
    if objective.mode == "train":
        return objective.gathered(lambda batch: batch)
    examples = sum(objective.gathered(batch_size))
    return pieces_of(objective, max(1, min(_SET, examples // _SETS)))


def read_stability(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_stability`."""
    names = {
        "descent": ("lr x largest eigenvalue", ""),
        "adam": (
            "lr x largest eigenvalue, Adam's scale",
            f"; second moments of sets of at most {_SET} examples, at these weights",
        ),
        "optimizer": ("lr x largest eigenvalue, given optimizer", ""),
    }
    return tuple(
        Quantity(
            name,
            results[key].sharpness,
            results[key].bound,
            meaning=f"the edge is at {results[key].threshold:.3g}{note}",
            is_bound=True,
        )
        for key, (name, note) in names.items()
        if key in results
    )


def measure_gradient(site: Context) -> Parts:
    """The gradient and its noise."""
    return {"noise": lambda: gradient_noise(site.objective, seed=site.seed)}


def read_gradient(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_gradient`."""
    found = results["noise"]
    floor = f"sampling alone gives {found.floor:.2g} where the true gradient is zero"
    scale = f"batch size at which noise and signal are equal, in {found.unit}"
    return (
        estimated("gradient norm", found.norm, floor),
        estimated("gradient noise scale", found.noise_scale, scale),
        estimated("gradient scatter", found.scatter, "trace of its covariance", is_minor=True),
    )
