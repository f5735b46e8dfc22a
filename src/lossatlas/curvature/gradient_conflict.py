"""Zero-sum learning: how far examples' losses and gradients cancel each other."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.curvature.arguments import check_count, check_objective, check_tensor
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.errors import ArgumentError, LossError, NonFiniteError
from lossatlas.linalg.estimators import jackknife
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.point import State
from lossatlas.objective.slope import ensure_slope
from lossatlas.objective.weighted import pairs_of
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result, rows_figure
from lossatlas.rng import generator
from lossatlas.text import percent

Array = NDArray[np.float64]
_REFERENCE = Reference(
    "zero-sum learning",
    "A. Mircea et al. Training Dynamics Underlying Language Model Scaling Laws. ACL 2025.",
    "https://arxiv.org/abs/2506.05447",
)


def interference(values: Tensor) -> float:
    """Destructive interference of numbers: 1 - |sum| / sum of |.|.

    Args:
        values: any shape.

    Returns:
        0 where all have one sign, 1 where they cancel; NaN where all are zero.

    Raises:
        ArgumentError: not a tensor.

    Examples:
        >>> import torch
        >>> from lossatlas.curvature import interference
        >>> interference(torch.tensor([1.0, -1.0, 2.0]))
        0.5
    """
    check_tensor("values", values)
    x = values.double()
    total = float(x.abs().sum())
    return 1 - abs(float(x.sum())) / total if total else math.nan


@result("zero_sum_losses", references=(_REFERENCE,))
class ZeroSumLosses(Result):
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

    def estimates(self) -> tuple[Estimate, ...]:
        """The interference of the changes."""
        share = f"{100 * self.worsened:.0f} % of examples got worse"
        interference = replace(self.interference, name="interference of losses", meaning=share)
        return (interference,)

    def sentences(self) -> tuple[str, ...]:
        """How many examples paid for others."""
        if not math.isfinite(self.interference.value):
            return ()
        return (
            f"{percent(self.worsened)} of the examples got worse between the two points; "
            f"{percent(self.interference.value)} of the changes of the loss cancel.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The share that cancels beside the share that got worse."""
        worse = Estimate(self.worsened, name="share that got worse")
        shown = (replace(self.interference, name="share that cancels"), worse)
        return (rows_figure("Changes of the loss", shown, "share", is_minor=True),)


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

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import zero_sum_losses
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.randn(8, 2), torch.ones(8, 1))
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, [batch])
        >>> before = {name: value + 0.1 for name, value in objective.params.items()}
        >>> 0 <= zero_sum_losses(objective, before).worsened <= 1
        True

    Source: Mircea et al., ACL 2025, arXiv:2506.05447.
    """
    check_objective(objective)
    change = _parts(objective, after) - _parts(objective, before)
    if not bool(torch.isfinite(change).all()):
        raise NonFiniteError("the loss of some example is not finite at one of the points.")
    estimate = jackknife(lambda kept: interference(change[kept]), len(change), seed=seed)
    if math.isnan(estimate.value):
        why = "no loss changed"
        estimate = Estimate(math.nan, math.nan, samples=len(change), why_no_error=why)
    return ZeroSumLosses(estimate, float(change.mean()), float((change > 0).double().mean()))


def _parts(objective: Objective, params: Params | None) -> Tensor:
    # What examples add to the value: the losses themselves where they count alike.
    pairs = objective.example_pairs(params)
    return pairs.sums / pairs.weights.mean()


@result("zero_sum_gradients", references=(_REFERENCE,))
class ZeroSumGradients(CheckedResult):
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

    def estimates(self) -> tuple[Estimate, ...]:
        """The overall interference."""
        meaning = "1 - |sum| / sum of sizes, weight by weight; at 1 examples cancel"
        return (replace(self.overall, name="interference of gradients", meaning=meaning),)

    def answer(self) -> tuple[str, str]:
        """How much of their gradients cancels."""
        if not math.isfinite(self.overall.value):
            return "not known", ""
        return f"{percent(self.overall.value)} of their gradients cancel", "sure"

    def sentences(self) -> tuple[str, ...]:
        """How much of the gradients cancels."""
        if not math.isfinite(self.overall.value):
            return ()
        share = percent(self.overall.value)
        return (f"{share} of the gradients of single examples cancel, weight by weight.",)

    def figures(self) -> tuple[Figure, ...]:
        """Share of weights by interference."""
        from lossatlas.plots.rows import Dots, rows_chart

        width = 1 / len(self.histogram)
        names = [
            f"{k * width:.2f} to {(k + 1) * width:.2f}" for k in range(len(self.histogram))
        ]
        title, axis = "Conflict in single weights", "share of weights"
        dots = [Dots(axis, self.histogram)]
        caption = (
            "How far the gradients of examples cancel (1: fully), and in how many weights."
        )
        chart = partial(rows_chart, names, dots, title, axis)
        return (chart_of("weights", title, chart, caption=caption, alt=caption),)


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

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import zero_sum_gradients
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.randn(8, 2), torch.ones(8, 1))
        >>> zero_sum_gradients(la.Objective(torch.nn.Linear(2, 1), loss, [batch])).examples
        8

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
        for batch in objective.iter_batches():
            for rows in _example_gradients(objective, leaves, batch, chunk):
                fold = torch.randint(0, folds, (len(rows),), generator=drawn).to(rows.device)
                signed.index_add_(0, fold, rows)
                absolute.index_add_(0, fold, rows.abs())
                count += len(rows)

    with torch.enable_grad():
        objective.with_params({**leaves, **here.buffers}, walk)
    return signed, absolute, count


def _example_gradients(
    objective: Objective, leaves: Params, batch: Batch, chunk: int
) -> list[Tensor]:
    losses, points = pairs_of(objective.batch_loss(batch)).sums, list(leaves.values())
    chosen = torch.split(torch.eye(len(losses)).to(losses), chunk)
    gradients = []
    for rows in chosen:
        parts = _rows(losses, points, rows)
        full = [
            torch.zeros(len(rows), *p.shape, dtype=p.dtype, device=p.device) if g is None else g
            for p, g in zip(points, parts, strict=True)
        ]
        gradients.append(torch.cat([g.reshape(len(rows), -1).double() for g in full], dim=1))
    return gradients


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


@instrument(
    "gradient_conflict",
    title="Gradient conflict",
    question="Do my examples work against each other?",
    group="learning",
    cost="a gradient an example",
    needs="one loss an example; two checkpoints for the losses on the way",
    references=(_REFERENCE,),
    place=1,
)
def survey_gradient_conflict(context: Context) -> Parts:
    """How far examples cancel each other: their gradients here, their losses on the way."""
    return {
        "gradients": lambda: zero_sum_gradients(context.objective, seed=context.seed),
        "losses": lambda: _on_the_way(context),
    }


def _on_the_way(context: Context) -> ZeroSumLosses:
    if len(context.checkpoints) < 2:
        raise ArgumentError(
            "changes of the loss need two checkpoints of the training; pass checkpoints="
        )
    # Half of the way back: single steps near the end are noise.
    before = context.checkpoints[(len(context.checkpoints) - 1) // 2]
    return zero_sum_losses(context.objective, before, seed=context.seed)
