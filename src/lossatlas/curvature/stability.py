"""The edge of stability: how the step of an optimizer stands to the sharpest curvature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossatlas.checks import check_at_least, check_positive
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.matrix import Product
from lossatlas.curvature.products import hessian
from lossatlas.curvature.selfcheck import says_checks
from lossatlas.curvature.trees import Stored, part
from lossatlas.errors import ArgumentError, ModelError
from lossatlas.linalg.extremes import converge
from lossatlas.linalg.krylov import Lanczos
from lossatlas.objective import Objective
from lossatlas.objective.lines import coarse_rounding
from lossatlas.rng import generator
from lossatlas.store import kind

_SERVED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam)


class Steps(Protocol):
    """What is read of an optimizer: any of `torch.optim` will do."""

    @property
    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Groups of parameters with their settings."""

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """What is kept of each parameter."""


@part
@kind("stability")
@dataclass(frozen=True)
class Stability(Stored):
    """The largest curvature in units of the optimizer's own steps.

    Attributes:
        sharpness: learning rate x largest eigenvalue of the (preconditioned) Hessian, no unit.
        bound: its error bound.
        threshold: where a quadratic begins to diverge: 2 for gradient descent.
        ratio: sharpness / threshold; above 1 is above the edge.
        rule: "descent", "momentum", "nesterov", "adam" or "nadam".
        products: products spent.
        reached: whether the tolerance was reached.
    """

    sharpness: float
    bound: float
    threshold: float
    ratio: float
    rule: str
    products: int
    reached: bool


@says_checks
def edge_of_stability(
    objective: Objective,
    optimizer: Steps,
    *,
    tolerance: float = 1e-3,
    limit: int = 200,
    seed: int = 0,
) -> Stability:
    """Compare the present learning rates with the largest that the curvature allows.

    Groups may have rates of their own: the Hessian is scaled on both sides by the root of each
    weight's step size. Weight decay that joins the gradient adds to the curvature; decoupled
    decay (AdamW) is left out. Parameters that the optimizer does not hold do not move.

    Second moments are held as they are. So is the momentum of NAdam, which grows from half its
    beta as steps are taken: with m now and n at the next step its threshold is
    2 (1 + beta) / ((1 + beta) (1 - m) + (1 - beta) n), after long 13.57 at beta = 0.9.

    Args:
        objective: model, loss, batches, at the weights the optimizer is at.
        optimizer: SGD (momentum, Nesterov), Adam, AdamW, NAdam, a subclass of theirs or a
            wrapper that holds one as `.optimizer`; or any object with groups and state as
            those of SGD or Adam.
        tolerance: of the eigenvalue, relative.
        limit: products at most.
        seed: what the start is drawn from.

    Returns:
        Sharpness against its threshold.

    Raises:
        ArgumentError: an optimizer of another class, groups with different momenta, one that
            maximizes, or one of Adam's kind before its first step.
        ModelError: the optimizer holds none of the objective's parameters.
        LossError: the loss is not twice differentiable.

    Source: Cohen et al., ICLR 2021, arXiv:2103.00065 (descent, momentum, Nesterov); Cohen et
        al., arXiv:2207.14484 (Adam); Dozat, ICLR workshop 2016 (the steps of NAdam).
    """
    check_objective(objective)
    check_positive("tolerance", tolerance)
    check_at_least("limit", limit, 1)
    matrix = hessian(objective)
    optimizer = _unwrapped(optimizer)
    rule, threshold = _threshold(optimizer, objective)
    scale, decay = _scales(objective, optimizer, matrix, rule)
    drawn = generator(seed, "start", device=matrix.device)
    start = torch.randn(matrix.size, generator=drawn, dtype=matrix.dtype, device=matrix.device)

    def apply(vector: Tensor) -> Tensor:
        inner = scale * vector
        return scale * (matrix.flat(inner) + decay * inner)

    lanczos = Lanczos(apply, start, drawn)
    ritz, reached = converge(lanczos, top=1, bottom=0, tolerance=tolerance, limit=limit)
    value = float(ritz.values[-1])
    return Stability(
        value,
        float(ritz.bounds[-1]) + coarse_rounding(objective) * abs(value),
        threshold,
        value / threshold,
        rule,
        matrix.count,
        reached,
    )


def _unwrapped(optimizer: Steps) -> Steps:
    # Frameworks hand out optimizers in a shell of their own.
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    other = isinstance(optimizer, Optimizer) and not isinstance(optimizer, _SERVED)
    if other or not hasattr(optimizer, "param_groups"):
        raise _refused(type(optimizer).__name__)
    return optimizer


def _refused(got: str) -> ArgumentError:
    return ArgumentError(
        "`optimizer` must be SGD or of Adam's kind (Adam, AdamW, NAdam), or a subclass; got "
        f"{got}, whose edge is not known: compare lr x spectrum(objective, top=1).top[0] with "
        "2, the edge of plain steps."
    )


def _threshold(optimizer: Steps, objective: Objective) -> tuple[str, float]:
    every = dict(objective.model.named_parameters())
    moved = {id(every[name]) for name in objective.names}
    used = [
        group
        for group in optimizer.param_groups
        if any(id(parameter) in moved for parameter in group["params"])
    ]
    found = {_edge_of(optimizer, group) for group in used or optimizer.param_groups}
    if len(found) > 1:
        raise ArgumentError(
            "`optimizer` has groups with different momenta, and no common edge; measure them "
            "one by one with an objective of their parameters."
        )
    return found.pop()


def _edge_of(optimizer: Steps, group: Mapping[str, Any]) -> tuple[str, float]:
    if group.get("maximize"):
        raise ArgumentError("`optimizer` maximizes; the edge is known for descent only.")
    if "betas" in group:
        beta = float(group["betas"][0])
        if isinstance(optimizer, torch.optim.NAdam):
            return "nadam", _edge_of_nadam(optimizer, group, beta)
        return "adam", 2 * (1 + beta) / (1 - beta)
    if "momentum" not in group or "nesterov" not in group:
        raise _refused(type(optimizer).__name__)
    momentum, dampening = float(group["momentum"]), float(group.get("dampening", 0.0))
    if not momentum:
        return "descent", 2.0
    if group["nesterov"]:
        return "nesterov", 2 * (1 + momentum) / (1 + 2 * momentum)
    return "momentum", 2 * (1 + momentum) / (1 - dampening)


def _edge_of_nadam(optimizer: Steps, group: Mapping[str, Any], beta: float) -> float:
    # With z the curvature times the step, a step on a quadratic is the matrix
    # [[1 - z (1 - now + next (1 - beta)), -next beta], [z (1 - beta), beta]] on the weight and
    # the mean gradient; the threshold is the z that gives it the eigenvalue -1.
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    step = max((float(state["step"]) for state in states if "step" in state), default=0.0)
    rate = float(group["momentum_decay"])
    now, then = (beta * (1 - 0.5 * 0.96 ** (rate * place)) for place in (step, step + 1))
    edge: float = 2 * (1 + beta) / ((1 + beta) * (1 - now) + (1 - beta) * then)
    return edge


def _scales(
    objective: Objective, optimizer: Steps, matrix: Product, rule: str
) -> tuple[Tensor, Tensor]:
    every = dict(objective.model.named_parameters())
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    steps, decays = {}, {}
    for name, value in matrix.params.items():
        parameter = every[name]
        group = groups.get(id(parameter))
        if group is None:
            steps[name], decays[name] = torch.zeros_like(value), torch.zeros_like(value)
            continue
        step = torch.full_like(value, math.sqrt(float(group["lr"])))
        if rule in ("adam", "nadam"):
            step = step / _root(optimizer, parameter, group, name).sqrt()
        steps[name] = step
        decoupled = group.get("decoupled_weight_decay", False)
        decay = 0.0 if decoupled else float(group.get("weight_decay", 0.0))
        decays[name] = torch.full_like(value, decay)
    if not any(bool(step.any()) for step in steps.values()):
        raise ModelError(
            "`optimizer` moves none of the objective's parameters (or its rates are zero); "
            "build both from the same model."
        )
    return matrix.flatten(steps), matrix.flatten(decays)


def _root(optimizer: Steps, parameter: Tensor, group: Mapping[str, Any], name: str) -> Tensor:
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
