"""The gradient with its noise: its length, the scatter of examples, the noise scale."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lossatlas.algebra.estimators import Estimate, mean_of, rademacher
from lossatlas.algebra.params import Params, dot
from lossatlas.checks import check_at_least
from lossatlas.curvature.differentiable import check_finite, second_derivatives
from lossatlas.curvature.trees import Stored, part
from lossatlas.objective import Batch, Objective
from lossatlas.objective.weighted import Weighted, pairs_of
from lossatlas.rng import derive_seed
from lossatlas.store import kind


@part
@kind("gradient_noise")
@dataclass(frozen=True)
class GradientNoise(Stored):
    """How long the gradient is, and how much of it is noise.

    Attributes:
        norm: length of the mean gradient, loss per weight; its error is the sampling error.
        scatter: trace of the covariance of the gradients of single examples.
        noise_scale: scatter / squared length of the true gradient, in examples: the batch size
            at which noise and signal are equal (McCandlish et al.).
        floor: the length that sampling alone gives a gradient whose mean is zero.
        unit: what the errors come from, "examples" or "batches".
        checked: what the gradient was held against, a sentence each.
    """

    norm: Estimate
    scatter: Estimate
    noise_scale: Estimate
    floor: float
    unit: str
    checked: tuple[str, ...] = ()


def gradient_noise(
    objective: Objective, params: Params | None = None, *, probes: int = 8, seed: int = 0
) -> GradientNoise:
    """Measure the mean gradient against the scatter of single ones.

    Single gradients are never formed: their products with the mean come from one forward
    derivative, the sum of their squares from random signs.

    Args:
        objective: model, loss, batches. Where its loss gives only means, or norm layers use
            batch statistics, batches take the place of examples.
        params: where; the present weights by default.
        probes: random combinations of the examples of each batch.
        seed: what they are drawn from.

    Returns:
        Lengths, scatter and noise scale, with errors.

    Raises:
        ArgumentError: `probes` is below 1.
        NonFiniteError: the gradient is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Source: McCandlish, Kaplan, Amodei, arXiv:1812.06162, sec. 2.2 and app. A.
    """
    check_at_least("probes", probes, 1)
    with second_derivatives(objective.model):
        mean = objective.gradient(params)
    check_finite(mean)
    single = objective.unit == "examples" and objective.mode != "train"
    here = objective.params if params is None else params
    leaves = {n: here[n].detach().clone().requires_grad_() for n in objective.names}
    look = _look_at_examples if single else _look_at_batches

    def walk() -> list[_Seen]:
        return [
            look(objective, leaves, mean, batch, probes=probes, seed=derive_seed(seed, index))
            for index, batch in enumerate(objective.each_batch())
        ]

    with torch.enable_grad(), second_derivatives(objective.model):
        seen = objective.at(leaves, walk)
    found = _noise(seen, dot(mean, mean), "examples" if single else "batches")
    return replace(found, checked=objective.checked)


@dataclass(frozen=True)
class _Seen:
    # Inner products with the mean gradient and weights, one a unit; estimates of the sum of
    # squared lengths; examples.
    along: np.ndarray
    weights: np.ndarray
    squares: np.ndarray
    size: float


def _look_at_examples(
    objective: Objective, leaves: Params, mean: Params, batch: Batch, *, probes: int, seed: int
) -> _Seen:
    points = list(leaves.values())
    pairs = pairs_of(objective.measure(batch))
    losses = pairs.sums
    if not losses.requires_grad:
        return _unreached(pairs, probes)
    squares = []
    for probe in range(probes):
        signs = rademacher(len(losses), derive_seed(seed, probe), losses)
        parts = torch.autograd.grad(losses, points, signs, retain_graph=True, allow_unused=True)
        squares.append(sum(float(p.double().square().sum()) for p in parts if p is not None))
    dummy = torch.zeros_like(losses, requires_grad=True)
    pulled = torch.autograd.grad(losses, points, dummy, create_graph=True, allow_unused=True)
    means = [(p, mean[n]) for n, p in zip(leaves, pulled, strict=True) if p is not None]
    if not means:
        return _unreached(pairs, probes)
    along = torch.autograd.grad([p for p, _ in means], dummy, [m for _, m in means])[0]
    return _Seen(_numbers(along), _numbers(pairs.weights), np.array(squares), len(losses))


def _unreached(pairs: Weighted, probes: int) -> _Seen:
    count = len(pairs.sums)
    return _Seen(np.zeros(count), _numbers(pairs.weights), np.zeros(probes), count)


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def _look_at_batches(
    objective: Objective, leaves: Params, mean: Params, batch: Batch, *, probes: int, seed: int
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
    square = total.weight * dot(gradient, gradient)
    along, weight = np.array([dot(gradient, mean)]), np.array([total.weight])
    return _Seen(along, weight, np.array([square]), objective.size_of(batch))


def _noise(seen: list[_Seen], square: float, unit: str) -> GradientNoise:
    total = sum(part.size for part in seen)
    along, rows = _deviations(seen, square, unit)
    units, length = len(along), math.sqrt(square)
    if units < 2:
        why = f"a spread needs two {unit}; there is one"
        lost = Estimate(math.nan, math.nan, why_no_error=why)
        norm = Estimate(length, math.nan, why_no_error=why)
        return GradientNoise(norm, lost, lost, math.nan, unit)
    error = math.sqrt(float((along**2).sum()) / (units - 1) / units)
    flat = None if length else "the gradient is zero"
    error = error / length if length else math.nan
    norm = Estimate(length, error, len(seen), units, why_no_error=flat)
    # Batch means scatter 1 / size as much as examples do.
    each = 1.0 if unit == "examples" else total / len(seen)
    scatter = mean_of(rows * units / (units - 1) * each, len(seen))
    floor = math.sqrt(max(scatter.value, 0.0) / total)
    return GradientNoise(norm, scatter, _scale(norm, scatter, total), floor, unit)


def _deviations(seen: list[_Seen], square: float, unit: str) -> tuple[np.ndarray, np.ndarray]:
    # What units deviate from the mean gradient: along it, and in mean squared length (one
    # entry a probe). Examples: (s_i' - w_i mean) / mean(w). A batch mean has a variance that
    # is the smaller, the more it weighs.
    along = np.concatenate([part.along for part in seen])
    weights = np.concatenate([part.weights for part in seen])
    squares, typical = np.stack([part.squares for part in seen]).sum(0), weights.mean()
    if unit == "batches":
        lengths = squares / weights.sum() - square
        return np.sqrt(weights / typical) * (along - square), lengths
    crossed = square * float((weights**2).sum()) - 2 * float((weights * along).sum())
    return (along - square * weights) / typical, (squares + crossed) / (len(along) * typical**2)


def _scale(norm: Estimate, scatter: Estimate, total: float) -> Estimate:
    # The mean gradient of a sample is longer than the true one by the noise it carries.
    signal = norm.value**2 - scatter.value / total
    if signal <= 0:
        lost = "the gradient is lost in its noise; take more examples"
        return Estimate(math.inf, math.nan, why_no_error=lost)
    value = scatter.value / signal
    relative = math.hypot(
        scatter.stderr / scatter.value if scatter.value else 0.0,
        2 * norm.value * norm.stderr / signal,
    )
    why = None if math.isfinite(relative) else scatter.why_no_error or norm.why_no_error
    return Estimate(value, value * relative, samples=scatter.samples, why_no_error=why)
