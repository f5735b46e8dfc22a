"""Estimates with standard errors: sample means, the jackknife, random signs."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.intervals import t_quantile
from lossatlas.result import Estimate
from lossatlas.rng import generator

Array = NDArray[np.float64]

LEVEL = 0.95


def mean_of(samples: Sequence[float] | Array, products: int = 0) -> Estimate:
    """The mean of independent samples with its standard error."""
    values = np.asarray(samples, dtype=np.float64)
    if len(values) < 2:
        value = float(values[0]) if len(values) else math.nan
        why = f"a standard error needs two samples; there is {len(values)}"
        return Estimate(value, math.nan, products, len(values), why_no_error=why)
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(float(values.mean()), error, products, len(values))


def jackknife(
    statistic: Callable[[Tensor], float],
    count: int,
    *,
    folds: int = 20,
    seed: int = 0,
    strata: Tensor | None = None,
) -> Estimate:
    """A statistic of examples with its delete-a-fold jackknife error."""
    value = statistic(torch.arange(count))
    parts = min(folds, count)
    if parts < 2:
        why = "a jackknife needs two examples"
        return Estimate(value, math.nan, samples=count, why_no_error=why)
    order = torch.randperm(count, generator=generator(seed, "jackknife"))
    if strata is not None:
        order = order[torch.argsort(strata.cpu()[order], stable=True)]
    left = np.array([statistic(_without(order, k, parts)) for k in range(parts)])
    error = math.sqrt((parts - 1) / parts * float(((left - left.mean()) ** 2).sum()))
    why_not = None if math.isfinite(error) else "the statistic is not finite on every fold"
    return Estimate(value, error, samples=parts, why_no_error=why_not)


def _without(order: Tensor, fold: int, folds: int) -> Tensor:
    keep = torch.arange(len(order)) % folds != fold
    return order[keep].sort().values


def rademacher(size: int, seed: int, like: Tensor) -> Tensor:
    """A vector of random signs."""
    drawn = generator(seed, device=like.device)
    bits = torch.randint(0, 2, (size,), generator=drawn, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype).mul_(2).sub_(1)


def quantile(level: float, samples: int) -> float:
    """Half-width of a two-sided Student's t interval, in standard errors.

    Args:
        level: its coverage, between 0 and 1.
        samples: number of samples behind the error.

    Returns:
        A factor; 1.96 for 95 % and many samples, NaN for fewer than two.
    """
    return float(t_quantile(level, samples))
