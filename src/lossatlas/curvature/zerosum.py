"""Zero-sum learning: how far examples' losses and gradients cancel each other."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.curvature.arguments import check_count, check_objective, check_tensor
from lossatlas.curvature.selfcheck import says_checks
from lossatlas.curvature.trees import Stored, part
from lossatlas.errors import LossError, NonFiniteError
from lossatlas.linalg.estimators import jackknife
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.point import State
from lossatlas.objective.slope import ensure_slope
from lossatlas.objective.weighted import pairs_of
from lossatlas.result import Estimate
from lossatlas.rng import generator
from lossatlas.store import kind

Array = NDArray[np.float64]


def interference(values: Tensor) -> float:
    """Destructive interference of numbers: 1 - |sum| / sum of |.|.

    Args:
        values: any shape.

    Returns:
        0 where all have one sign, 1 where they cancel; NaN where all are zero.

    Raises:
        ArgumentError: not a tensor.
    """
    check_tensor("values", values)
    x = values.double()
    total = float(x.abs().sum())
    return 1 - abs(float(x.sum())) / total if total else math.nan


@part
@kind("zero_sum_losses")
@dataclass(frozen=True)
class ZeroSumLosses(Stored):
    """How far the losses of examples went against each other between two points.

    Attributes:
        interference: 1 - |sum of changes| / sum of |change|; near 0 all examples moved one
            way, near 1 gains of some were paid by others. Jackknife error over examples.
        change: mean change of the loss.
        worsened: share of examples whose loss rose.
    """

    interference: Estimate
    change: float
    worsened: float


def zero_sum_losses(
    objective: Objective, before: Params, after: Params | None = None, *, seed: int = 0
) -> ZeroSumLosses:
    """Destructive interference of loss changes between two points.

    Single steps at a small gradient are noisy: take points some steps apart.

    Args:
        objective: its loss must give one number an example.
        before: one point.
        after: the other; the present weights by default.
        seed: deals examples to the folds of the jackknife.

    Returns:
        Interference of the changes.

    Raises:
        LossError: the loss gives only means.
        NonFiniteError: a loss is not finite.
        StructureError: names or shapes differ from those of the objective.

    Source: Mircea et al., ACL 2025, arXiv:2506.05447.
    """
    check_objective(objective)
    change = _parts(objective, after) - _parts(objective, before)
    if not bool(torch.isfinite(change).all()):
        raise NonFiniteError("the loss of some example is not finite at one of the points.")
    found = jackknife(lambda kept: interference(change[kept]), len(change), seed=seed)
    if math.isnan(found.value):
        why = "no loss changed"
        found = Estimate(math.nan, math.nan, samples=len(change), why_no_error=why)
    return ZeroSumLosses(found, float(change.mean()), float((change > 0).double().mean()))


def _parts(objective: Objective, params: Params | None) -> Tensor:
    # What examples add to the value: the losses themselves where they count alike.
    pairs = objective.example_pairs(params)
    return pairs.sums / pairs.weights.mean()


@part
@kind("zero_sum_gradients")
@dataclass(frozen=True)
class ZeroSumGradients(Stored):
    """How far the gradients of examples cancel, coordinate by coordinate.

    Attributes:
        overall: 1 - sum over weights of |sum over examples| / sum of all |.|; its error is a
            jackknife over folds of examples.
        histogram: share of weights in each of 20 equal bins of interference in [0, 1]; weights
            whose gradient is zero for every example are left out.
        silent: share of weights that are left out.
        examples: how many.
    """

    overall: Estimate
    histogram: Array
    silent: float
    examples: int


@says_checks
def zero_sum_gradients(
    objective: Objective,
    params: Params | None = None,
    *,
    folds: int = 5,
    chunk: int = 32,
    seed: int = 0,
) -> ZeroSumGradients:
    """Destructive interference of examples' gradients in every weight.

    It forms the gradient of every example (`chunk` at a time) and keeps two sums a fold: take
    an objective of a few layers where the model is large.

    Args:
        objective: its loss must give one number an example.
        params: where; the present weights by default.
        folds: parts of the jackknife.
        chunk: gradients held at once.
        seed: deals examples to the folds.

    Returns:
        Overall interference and its distribution over weights.

    Raises:
        ArgumentError: a number of the wrong kind.
        DerivativeError: a parameter moves the loss and gets no gradient.
        LossError: the loss gives only means, or uses batch statistics.
        NonFiniteError: the gradient of some example is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Source: Mircea et al., ACL 2025, arXiv:2506.05447.
    """
    check_objective(objective, params)
    check_count("folds", folds, 2)
    check_count("chunk", chunk, 1)
    if objective.unit != "examples" or objective.mode == "train":
        raise LossError(
            "gradients of examples need a loss that gives one number an example, and norm "
            "layers that do not mix examples (mode='eval')."
        )
    ensure_slope(objective)
    signed, absolute, count = _sums(objective, params, folds, chunk, seed)
    if not bool(torch.isfinite(absolute).all()):
        raise NonFiniteError(
            "the gradient of some example is not finite at these weights; check the loss "
            "(overflow, log of zero)."
        )
    overall = _overall(signed.sum(0), absolute.sum(0))
    left = np.array(
        [
            _overall(signed.sum(0) - s, absolute.sum(0) - a)
            for s, a in zip(signed, absolute, strict=True)
        ]
    )
    error = math.sqrt((folds - 1) / folds * float(((left - left.mean()) ** 2).sum()))
    live = absolute.sum(0) > 0
    each = 1 - signed.sum(0)[live].abs() / absolute.sum(0)[live]
    counts = np.histogram(each.clamp(0, 1).cpu().numpy(), bins=20, range=(0, 1))[0]
    why = None if math.isfinite(error) else _why(overall)
    return ZeroSumGradients(
        Estimate(overall, error, count, folds, why_no_error=why),
        counts / max(int(live.sum()), 1),
        1 - float(live.double().mean()),
        count,
    )


def _why(overall: float) -> str:
    zero = "every gradient is zero"
    return zero if math.isnan(overall) else f"{zero} where one fold is left out"


def _overall(signed: Tensor, absolute: Tensor) -> float:
    total = float(absolute.sum())
    return 1 - float(signed.abs().sum()) / total if total else math.nan


def _sums(
    objective: Objective, params: Params | None, folds: int, chunk: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    here = State(objective.params) if params is None else objective.split(params)
    leaves = {n: v.detach().clone().requires_grad_() for n, v in here.params.items()}
    size = sum(value.numel() for value in leaves.values())
    signed = torch.zeros(folds, size, dtype=torch.float64, device=objective.device)
    absolute, drawn, count = torch.zeros_like(signed), generator(seed, "folds"), 0

    def walk() -> None:
        nonlocal count
        for batch in objective.each_batch():
            for rows in _example_gradients(objective, leaves, batch, chunk):
                fold = torch.randint(0, folds, (len(rows),), generator=drawn).to(rows.device)
                signed.index_add_(0, fold, rows)
                absolute.index_add_(0, fold, rows.abs())
                count += len(rows)

    with torch.enable_grad():
        objective.at({**leaves, **here.buffers}, walk)
    return signed, absolute, count


def _example_gradients(
    objective: Objective, leaves: Params, batch: Batch, chunk: int
) -> list[Tensor]:
    losses, points = pairs_of(objective.measure(batch)).sums, list(leaves.values())
    chosen = torch.split(torch.eye(len(losses)).to(losses), chunk)
    found = []
    for rows in chosen:
        parts = _rows(losses, points, rows)
        full = [
            torch.zeros(len(rows), *p.shape, dtype=p.dtype, device=p.device) if g is None else g
            for p, g in zip(points, parts, strict=True)
        ]
        found.append(torch.cat([g.reshape(len(rows), -1).double() for g in full], dim=1))
    return found


def _rows(
    losses: Tensor, points: list[Tensor], rows: Tensor
) -> tuple[Tensor | None, ...] | list[Tensor | None]:
    options = {"retain_graph": True, "allow_unused": True}
    try:
        return torch.autograd.grad(losses, points, rows, is_grads_batched=True, **options)
    except NotImplementedError:
        # Sparse gradients (of embeddings) come one by one only.
        each = [torch.autograd.grad(losses, points, row, **options) for row in rows]
    return [
        None if column[0] is None else torch.stack([g.to_dense() for g in column])
        for column in zip(*each, strict=True)
    ]
