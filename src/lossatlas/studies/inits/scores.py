"""How good a prediction is: correlations within blocks, errors, regret, and their intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.rng import derive_seed

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def random_source(*parts: object) -> np.random.Generator:
    """A numpy generator seeded by name."""
    return np.random.default_rng(derive_seed("inits", *parts))


def spearman(truth: Array, predicted: Array, blocks: Ints) -> Array:
    """Rank correlation within blocks, averaged with the sizes of the blocks."""
    total, weight = np.zeros(len(predicted)), 0
    for block in np.unique(blocks):
        inside = blocks == block
        size = int(inside.sum())
        if size < 2:
            continue
        total += size * _correlation(
            stats.rankdata(np.atleast_2d(truth)[:, inside], axis=-1),
            stats.rankdata(predicted[:, inside], axis=-1),
        )
        weight += size
    return np.asarray(total / max(weight, 1))


def _correlation(a: Array, b: Array) -> Array:
    a, b = (row - row.mean(-1, keepdims=True) for row in (a, b))
    lengths = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    products = (a * b).sum(-1)
    return np.asarray(
        np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    )


def kendall(truth: Array, predicted: Array, blocks: Ints) -> float:
    """Kendall's tau-b within blocks, averaged with the sizes of the blocks."""
    total, weight = 0.0, 0
    for block in np.unique(blocks):
        a, b = truth[blocks == block], predicted[blocks == block]
        if len(a) < 2:
            continue
        value = 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else stats.kendalltau(a, b).statistic
        total += len(a) * float(value)
        weight += len(a)
    return total / max(weight, 1)


def determination(truth: Array, predicted: Array, blocks: Ints) -> float:
    """The share of the variance within blocks that a prediction explains."""
    rest = float(((truth - predicted) ** 2).sum())
    total = float(((truth - block_means(truth, blocks)) ** 2).sum())
    return 1.0 - rest / total if total > 0 else 0.0


def block_means(values: Array, blocks: Ints) -> Array:
    """The mean of the block that each candidate is in."""
    _, which = np.unique(blocks, return_inverse=True)
    return np.asarray((np.bincount(which, values) / np.bincount(which))[which])


def resamples(blocks: Ints, count: int, seed: int) -> Ints:
    """Bootstrap samples of the candidates, drawn within each block."""
    source = random_source("bootstrap", seed)
    drawn = np.empty((count, len(blocks)), dtype=np.int64)
    for block in np.unique(blocks):
        inside = np.flatnonzero(blocks == block)
        drawn[:, inside] = inside[source.integers(len(inside), size=(count, len(inside)))]
    return drawn


def shuffles(blocks: Ints, count: int, seed: int) -> Ints:
    """Permutations of the candidates within each block: the null of no relation."""
    source = random_source("shuffles", seed)
    drawn = np.tile(np.arange(len(blocks)), (count, 1))
    for block in np.unique(blocks):
        inside = np.flatnonzero(blocks == block)
        drawn[:, inside] = source.permuted(drawn[:, inside], axis=1)
    return drawn


def interval(samples: Array, level: float = 0.95) -> tuple[float, float]:
    """The middle part of bootstrap samples."""
    tail = (1 - level) / 2
    lower, upper = np.quantile(samples, (tail, 1 - tail))
    return float(lower), float(upper)


def holm(p: Sequence[float] | Array) -> Array:
    """Holm's correction for many tests.

    Args:
        p: one p-value a test.

    Returns:
        Adjusted p-values; those below the level are significant together.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    grown = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(grown), 1.0)
    return adjusted


def p_value(observed: float, null: Array) -> float:
    """How often chance does as well, one-sided."""
    return float((1 + np.count_nonzero(null >= observed)) / (1 + len(null)))
