"""What an optimizer's steps are: its groups, its edge of stability, the size of each step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.errors import ArgumentError, ModelError
from lossatlas.objective import Objective
from lossatlas.objective.names import own_parameters

Group = Mapping[str, Any]
_SUPPORTED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam)


class OptimizerLike(Protocol):
    """What is read of an optimizer: any of `torch.optim` will do."""

    @property
    def param_groups(self) -> Sequence[Group]:
        """Groups of parameters with their settings."""

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """What is kept of each parameter."""


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """How an optimizer would step from here. One of torch's takes seconds to build at first."""

    param_groups: Sequence[Group]
    state: Mapping[Tensor, Mapping[str, Any]]


def has_second_moments(optimizer: OptimizerLike) -> bool:
    """Whether an optimizer brings second moments of its own, as a trained Adam does."""
    inner = getattr(optimizer, "optimizer", optimizer)
    states = getattr(inner, "state", {}).values()
    return any("exp_avg_sq" in state for state in states)


def unwrap_optimizer(optimizer: OptimizerLike) -> OptimizerLike:
    """The optimizer inside of a framework's wrapper; an error where its edge is not known."""
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    is_unknown = isinstance(optimizer, Optimizer) and not isinstance(optimizer, _SUPPORTED)
    if is_unknown or not hasattr(optimizer, "param_groups"):
        raise _unsupported(optimizer)
    return optimizer


def _unsupported(optimizer: object) -> ArgumentError:
    return ArgumentError(
        "`optimizer` must be SGD or of Adam's kind (Adam, AdamW, NAdam), or a subclass; got "
        f"{type(optimizer).__name__}, whose edge is not known: compare lr x "
        "spectrum(objective, top=1).top[0] with 2, the edge of plain steps."
    )


def used_groups(optimizer: OptimizerLike, objective: Objective) -> Sequence[Group]:
    """The groups that hold parameters of the objective; all where none does."""
    moved = {id(value) for value in own_parameters(objective).values()}
    used = [
        group
        for group in optimizer.param_groups
        if any(id(parameter) in moved for parameter in group["params"])
    ]
    return used or optimizer.param_groups


def common_setting(groups: Sequence[Group], name: str) -> float:
    """A setting that all groups agree on; NaN where they do not, or do not have it."""
    values = {float(group.get(name, math.nan)) for group in groups}
    return values.pop() if len(values) == 1 else math.nan


def edge_of_groups(optimizer: OptimizerLike, groups: Sequence[Group]) -> tuple[str, float]:
    """The rule of the steps, and the sharpness from which on a quadratic diverges."""
    edges = {_edge_of_group(optimizer, group) for group in groups}
    if len(edges) > 1:
        raise ArgumentError(
            "`optimizer` has groups with different momenta, and no common edge; measure them "
            "one by one with an objective of their parameters."
        )
    return edges.pop()


def _edge_of_group(optimizer: OptimizerLike, group: Group) -> tuple[str, float]:
    if group.get("maximize"):
        raise ArgumentError("`optimizer` maximizes; the edge is known for descent only.")
    if "betas" in group:
        beta = float(group["betas"][0])
        if isinstance(optimizer, torch.optim.NAdam):
            return "nadam", _edge_of_nadam(optimizer, group, beta)
        return "adam", 2 * (1 + beta) / (1 - beta)
    if "momentum" not in group or "nesterov" not in group:
        raise _unsupported(optimizer)
    momentum, dampening = float(group["momentum"]), float(group.get("dampening", 0.0))
    if not momentum:
        return "descent", 2.0
    if group["nesterov"]:
        return "nesterov", 2 * (1 + momentum) / (1 + 2 * momentum)
    return "momentum", 2 * (1 + momentum) / (1 - dampening)


def _edge_of_nadam(optimizer: OptimizerLike, group: Group, beta: float) -> float:
    # With z the curvature times the step, a step on a quadratic is the matrix
    # [[1 - z (1 - m + n (1 - beta)), -n beta], [z (1 - beta), beta]] on the weight and the mean
    # gradient, with the momentum m of this step and n of the next one; the threshold is the z
    # that gives it the eigenvalue -1.
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    step = max((float(state["step"]) for state in states if "step" in state), default=0.0)
    rate = float(group["momentum_decay"])
    present, following = (beta * (1 - 0.5 * 0.96 ** (rate * at)) for at in (step, step + 1))
    edge: float = 2 * (1 + beta) / ((1 + beta) * (1 - present) + (1 - beta) * following)
    return edge


def step_scales(
    objective: Objective, optimizer: OptimizerLike, matrix: CurvatureOperator, rule: str
) -> tuple[Tensor, Tensor]:
    """The root of each weight's step size, and the decay that adds to its curvature; flat."""
    own = own_parameters(objective)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    roots, decays = {}, {}
    for name, value in matrix.params.items():
        group = groups.get(id(own[name]))
        if group is None:
            roots[name], decays[name] = torch.zeros_like(value), torch.zeros_like(value)
            continue
        root = torch.full_like(value, math.sqrt(float(group["lr"])))
        if rule in ("adam", "nadam"):
            root = root / _denominator(optimizer, own[name], group, name).sqrt()
        is_decoupled = group.get("decoupled_weight_decay", False)
        decay = 0.0 if is_decoupled else float(group.get("weight_decay", 0.0))
        roots[name], decays[name] = root, torch.full_like(value, decay)
    if not any(bool(root.any()) for root in roots.values()):
        raise ModelError(
            "`optimizer` moves none of the objective's parameters (or its rates are zero); "
            "build both from the same model."
        )
    return matrix.flatten(roots), matrix.flatten(decays)


def _denominator(
    optimizer: OptimizerLike, parameter: Tensor, group: Group, name: str
) -> Tensor:
    # What Adam divides by: sqrt(second moment, bias removed) + eps.
    state = optimizer.state.get(parameter, {})
    key = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
    if key not in state:
        raise ArgumentError(
            f"`optimizer` has no second moment of '{name}' yet; take a step before asking."
        )
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    root: Tensor = (state[key] / correction).sqrt() + float(group["eps"])
    return root
