"""The gradient with its noise: its length, the scatter of examples, the noise scale."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.differentiable import (
    check_finite,
    check_graph,
    explained,
    second_derivatives,
)
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.errors import LossError
from lossatlas.linalg.estimators import Array, rademacher
from lossatlas.linalg.params import Params, dot
from lossatlas.objective import Batch, Objective
from lossatlas.objective.point import State
from lossatlas.objective.weighted import pairs_of
from lossatlas.result import Estimate, Figure, Reference, result, rows_figure
from lossatlas.rng import derive_seed, generator
from lossatlas.text import number, with_error

# Errors come from folds of the examples: about so many in all.
_FOLDS = 20
_REFERENCE = Reference(
    "gradient noise scale",
    "S. McCandlish, J. Kaplan, D. Amodei et al. An Empirical Model of Large-Batch Training. "
    "2018.",
    "https://arxiv.org/abs/1812.06162",
)


@result("gradient_noise", references=(_REFERENCE,))
class GradientNoise(CheckedResult):
    """How long the gradient is, and how much of it is noise.

    Attributes:
        norm: length of the mean gradient, loss per weight; its error is the sampling error.
        scatter: trace of the covariance of the gradients of single examples. Its error, and
            that of the noise scale, are taken over folds of examples (`samples` of them, or
            batches): they hold the examples as well as the probes.
        noise_scale: scatter / squared length of the true gradient, in examples: the batch size
            at which noise and signal are equal (McCandlish et al.).
        floor: the length that sampling alone gives a gradient whose mean is zero.
        unit: what the errors come from, "examples" or "batches".
    """

    norm: Estimate
    scatter: Estimate
    noise_scale: Estimate
    floor: float
    unit: str

    @property
    def exceeds_noise(self) -> bool:
        """Whether the gradient is longer than sampling alone makes it, at 95 %."""
        return self.norm.interval()[0] > self.floor

    @property
    def is_scale_known(self) -> bool:
        """Whether the interval of the noise scale excludes 0."""
        return math.isfinite(self.noise_scale.value) and self.noise_scale.interval()[0] > 0

    @property
    def _times(self) -> str:
        return number(self.norm.value / self.floor, 2) if self.floor else "∞"

    def estimates(self) -> tuple[Estimate, ...]:
        """Length, noise scale and scatter."""
        floor = f"sampling alone gives {self.floor:.2g} where the true gradient is zero"
        scale = "batch size at which noise and signal are equal, in examples"
        cov = "trace of its covariance"
        return (
            replace(self.norm, name="gradient norm", meaning=floor),
            replace(self.noise_scale, name="gradient noise scale", meaning=scale),
            replace(self.scatter, name="gradient scatter", meaning=cov, is_minor=True),
        )

    def answer(self) -> tuple[str, str]:
        """Whether the gradient exceeds its noise, and the batch beyond which little is gained.

        Returns:
            The answer, and "sure" where the gradient is longer than its noise beyond its error
            and the interval of the scale excludes 0.
        """
        scale = self.noise_scale
        if not math.isfinite(self.floor):
            return "not known", ""
        if not math.isfinite(scale.value):
            return "no: no longer than its noise", ""
        if not self.exceeds_noise:
            return f"{self._times} times its noise, within its error", ""
        if not self.is_scale_known:
            return f"{self._times} times its noise; the batch that pays off is not known", ""
        batch = f"about {number(scale.value, 2)} examples"
        return f"{self._times} times its noise; batches up to {batch}", "sure"

    def sentences(self) -> tuple[str, ...]:
        """Whether the gradient exceeds its noise."""
        length = with_error(self.norm.value, self.norm.stderr)
        if not math.isfinite(self.floor):
            return (f"The gradient is {length} long; nothing is known of its noise.",)
        if not math.isfinite(self.noise_scale.value):
            return (
                f"The gradient is {length} long, no longer than sampling alone would make it: "
                "the weights are at rest as far as these examples can tell.",
            )
        doubt = "" if self.exceeds_noise else ", which is within its error"
        return (
            f"The gradient is {length} long, {self._times} times what sampling alone would "
            f"give{doubt}; {self._scale_sentence()}.",
        )

    def _scale_sentence(self) -> str:
        scale = self.noise_scale
        shown = with_error(scale.value, scale.stderr)
        if not self.is_scale_known:
            return (
                f"the noise scale is not known, as its error is too large ({shown} "
                "examples; more examples narrow it)"
            )
        return (
            f"the noise scale is {shown} examples: in a smaller batch the sampling noise of "
            "the gradient is larger than the mean gradient"
        )

    def figures(self) -> tuple[Figure, ...]:
        """The length beside the one that sampling alone gives."""
        floor = Estimate(self.floor, name="what sampling alone gives")
        length = replace(self.norm, name="mean gradient")
        title, axis = "Gradient and noise", "length of the gradient (loss per weight)"
        return (rows_figure(title, (length, floor), axis, is_minor=True),)


@instrument(
    "gradient",
    title="Gradient and noise",
    question="Is the gradient above its noise, and how large a batch pays off?",
    group="steps",
    cost="10 gradients",
    references=(_REFERENCE,),
    place=2,
)
def survey_gradient(context: Context) -> Parts:
    """The gradient and its noise."""
    return {"noise": lambda: gradient_noise(context.objective, seed=context.seed)}


@says_checks
def gradient_noise(
    objective: Objective, params: Params | None = None, *, probes: int = 8, seed: int = 0
) -> GradientNoise:
    """Measure the mean gradient against the scatter of single ones.

    Single gradients are never formed: their products with the mean come from one forward
    derivative, the sum of their squares from random signs. Where torch cannot differentiate
    the backward pass of an operation (CTC, say), those products take a backward pass for each
    example: first derivatives are enough.

    Args:
        objective: model, loss, batches. Where its loss gives only means, or norm layers use
            batch statistics, batches take the place of examples.
        params: where; the present weights by default.
        probes: random combinations of the examples of each batch, shared out over folds of
            them; 2 or more for an error where there is one batch.
        seed: what they are drawn from.

    Returns:
        Lengths, scatter and noise scale, with errors.

    Raises:
        ArgumentError: `probes` is below 1.
        NonFiniteError: the gradient is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import gradient_noise
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.randn(8, 2), torch.ones(8, 1))
        >>> gradient_noise(la.Objective(torch.nn.Linear(2, 1), loss, [batch])).unit
        'examples'

    Source: McCandlish, Kaplan, Amodei, arXiv:1812.06162, sec. 2.2 and app. A.
    """
    check_objective(objective, params)
    check_count("probes", probes, 1)
    require_memory(objective, "gradient_noise")
    with second_derivatives(objective.model):
        mean = objective.gradient(params)
    check_finite(mean)
    single = objective.unit == "examples" and objective.mode != "train"
    here = State(objective.params) if params is None else objective.split(params)
    leaves = {n: v.detach().clone().requires_grad_() for n, v in here.params.items()}
    look = _look_at_examples if single else _look_at_batches

    count = len(objective.map_batches(lambda batch: 1))
    folds = _folds_of(count, probes)
    plan = _Plan(folds, probes // folds)

    def walk() -> list[_Seen]:
        return [
            look(objective, leaves, mean, batch, plan=plan, seed=derive_seed(seed, index))
            for index, batch in enumerate(objective.iter_batches())
        ]

    with torch.enable_grad(), second_derivatives(objective.model):
        seen = objective.with_params({**leaves, **here.buffers}, walk)
    return _noise(seen, dot(mean, mean), "examples" if single else "batches")


@dataclass(frozen=True)
class _Plan:
    # Folds of the examples of each batch, and random combinations of each.
    folds: int
    rounds: int


@dataclass(frozen=True)
class _Seen:
    # Of one batch: inner products of single gradients with the mean one, and weights. Of each
    # fold of its units: sums of squared distances from the mean gradient (estimates), of the
    # products that are left of it along the mean, and how many units. How many examples.
    along: Array
    weights: Array
    around: Array
    uphill: Array
    counts: Array
    size: float


def _folds_of(batches: int, probes: int) -> int:
    # Enough folds in all for a spread, unless each would have less than one probe.
    wanted = -(-_FOLDS // batches)
    return probes if 2 * wanted > probes else wanted


def _look_at_examples(
    objective: Objective, leaves: Params, mean: Params, batch: Batch, *, plan: _Plan, seed: int
) -> _Seen:
    points = list(leaves.values())
    pairs = pairs_of(objective.batch_loss(batch))
    losses, count = pairs.sums, len(pairs.sums)
    order = torch.randperm(count, generator=generator(seed, "folds"))
    folds = [part.to(losses.device) for part in order.tensor_split(min(plan.folds, count))]
    along, squares = torch.zeros(count), [0.0] * len(folds)
    if losses.requires_grad:
        squares = [_squares(losses, points, fold, plan.rounds, seed) for fold in folds]
        along = _along(losses, points, [mean[name] for name in leaves])
    a, w, square = _numbers(along), _numbers(pairs.weights), dot(mean, mean)
    crossed, left = square * w**2 - 2 * w * a, a - w * square
    rows = [fold.cpu().numpy() for fold in folds]
    around = np.array(squares) + [crossed[fold].sum() for fold in rows]
    uphill = np.array([left[fold].sum() for fold in rows])
    return _Seen(a, w, around, uphill, np.array([len(fold) for fold in rows]), count)


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.detach().double().cpu().numpy())


def _squares(
    losses: Tensor, points: list[Tensor], fold: Tensor, rounds: int, seed: int
) -> float:
    # The sum of squared lengths over a fold, from random signs.
    squares = []
    for index in range(rounds):
        signs = torch.zeros_like(losses)
        drawn = derive_seed(seed, int(fold[0]), index)
        signs[fold] = rademacher(len(fold), drawn, losses)
        parts = torch.autograd.grad(losses, points, signs, retain_graph=True, allow_unused=True)
        reached = {str(place): p for place, p in enumerate(parts) if p is not None}
        squares.append(dot(reached, reached))
        # Not beside the next ones.
        del parts, reached
    return sum(squares) / rounds


def _along(losses: Tensor, points: list[Tensor], mean: list[Tensor]) -> Tensor:
    # Products of single gradients with the mean: a forward derivative as the derivative of a
    # backward one, which is linear in `dummy` and so needs no second derivative in truth.
    dummy = torch.zeros_like(losses, requires_grad=True)
    try:
        pulled = torch.autograd.grad(
            losses, points, dummy, create_graph=True, allow_unused=True
        )
        pairs = [(p, m) for p, m in zip(pulled, mean, strict=True) if p is not None]
        if not pairs:
            return torch.zeros_like(losses)
        check_graph(p for p, _ in pairs)
        (along,) = torch.autograd.grad([p for p, _ in pairs], dummy, [m for _, m in pairs])
    except (RuntimeError, LossError) as error:
        # Backward passes that torch cannot differentiate (CTC): one for each example.
        if explained(str(error)) is None and not isinstance(error, LossError):
            raise
        return _along_one_by_one(losses, points, mean)
    return along


def _along_one_by_one(losses: Tensor, points: list[Tensor], mean: list[Tensor]) -> Tensor:
    products = []
    for loss in losses:
        parts = torch.autograd.grad(loss, points, retain_graph=True, allow_unused=True)
        pairs = [(p, m) for p, m in zip(parts, mean, strict=True) if p is not None]
        products.append(math.fsum(float((p.double() * m.double()).sum()) for p, m in pairs))
    return torch.tensor(products, dtype=torch.float64)


def _look_at_batches(
    objective: Objective, leaves: Params, mean: Params, batch: Batch, *, plan: _Plan, seed: int
) -> _Seen:
    points = list(leaves.values())
    total = objective.total(batch)
    loss = total.mean
    given = loss.requires_grad
    parts = (
        torch.autograd.grad(loss, points, allow_unused=True) if given else [None] * len(points)
    )
    gradient: dict[str, Tensor] = {
        n: torch.zeros_like(mean[n]) if p is None else p
        for n, p in zip(leaves, parts, strict=True)
    }
    along, square = dot(gradient, mean), dot(mean, mean)
    around = total.weight * (dot(gradient, gradient) - 2 * along + square)
    uphill = total.weight * (along - square)
    a, w, u, h, one = (np.array([x]) for x in (along, total.weight, around, uphill, 1.0))
    return _Seen(a, w, u, h, one, objective.size_of(batch))


def _noise(seen: list[_Seen], square: float, unit: str) -> GradientNoise:
    total = sum(part.size for part in seen)
    along, weights, around, uphill, counts = (
        np.concatenate([getattr(part, name) for part in seen]).astype(np.float64)
        for name in ("along", "weights", "around", "uphill", "counts")
    )
    length, units, typical = math.sqrt(square), len(along), float(weights.mean())
    if units < 2:
        why = f"a spread needs two {unit}; there is one"
        lost = Estimate(math.nan, math.nan, why_no_error=why)
        norm = Estimate(length, math.nan, why_no_error=why)
        return GradientNoise(norm, lost, lost, math.nan, unit)
    deviations = (along - square * weights) / typical
    # A batch mean has a variance that is the smaller, the more it weighs.
    around = around / typical**2
    if unit == "batches":
        deviations = np.sqrt(weights / typical) * (along - square)
        around = around * typical * total / units
    error = math.sqrt(float((deviations**2).sum()) / (units - 1) / units)
    flat = None if length else "the gradient is zero"
    error = error / length if length else math.nan
    norm = Estimate(length, error, len(seen), units, why_no_error=flat)
    scatter = float(around.sum()) / (units - 1)
    moved = (around - counts / units * around.sum()) / (units - 1)
    floor = math.sqrt(max(scatter, 0.0) / total)
    climbed = 2 * uphill / float(weights.sum())
    scale = _scale(scatter, square - scatter / total, total, moved, climbed)
    return GradientNoise(norm, _folded(scatter, moved), scale, floor, unit)


def _folded(value: float, influence: Array) -> Estimate:
    # What each fold adds to an estimate, so that examples count as well as probes.
    folds = len(influence)
    if folds < 2:
        why = "a spread needs two folds of examples; take more `probes`"
        return Estimate(value, math.nan, samples=folds, why_no_error=why)
    error = math.sqrt(folds / (folds - 1) * float((influence**2).sum()))
    return Estimate(value, error, samples=folds)


def _scale(
    scatter: float, signal: float, total: float, moved: Array, uphill: Array
) -> Estimate:
    # The mean gradient of a sample is longer than the true one by the noise it carries.
    if signal <= 0:
        lost = "the gradient is lost in its noise; take more examples"
        return Estimate(math.inf, math.nan, why_no_error=lost)
    value = scatter / signal
    return _folded(value, moved * (1 + value / total) / signal - value / signal * uphill)
