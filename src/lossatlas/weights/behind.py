"""How far candidates are behind the best, where the best is chosen on the same examples."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.result import Estimate
from lossatlas.rng import derive_seed
from lossatlas.weights.paired import PairedLosses

Array = NDArray[np.float64]

_LEVEL = 0.95
# Draws of all means together, and units of which residuals are held at a time.
_DRAWS, _BLOCK = 2000, 1 << 16


def behind_best(
    judged: PairedLosses, sums: Sequence[Array], best: int, others: Sequence[int], seed: int
) -> tuple[Estimate, ...]:
    """Loss of each candidate minus that of the best, with 95 % intervals that allow for luck.

    The candidate that is lowest in a sample is often lowest by luck, which makes plain paired
    intervals lie too high. Their lower end is therefore that of simultaneous comparisons with
    every candidate that may be the best,

        d_k - c_k se_k,  c_k: the 97.5 % quantile of max_j (d_kj - E d_kj) / se_kj,

    by draws from the multivariate t distribution with the covariance of the sample. The upper
    end is the plain one.

    Args:
        judged: what the losses are of; knows their weights.
        sums: losses times weights of each candidate, shape (units,) each.
        best: the lowest of them.
        others: candidates that may be the best, itself included.
        seed: of the draws.

    Returns:
        One difference a candidate; 0 for the best.

    Source: Hsu, Annals of Statistics 9 (1981), 1026-1034 (comparisons with the best).
    """
    plain = [judged.difference(each, sums[best]) for each in sums]
    comparable = [k for k, far in enumerate(plain) if k == best or far.stderr > 0]
    rivals = [k for k in comparable if k in others]
    estimates = [*plain]
    estimates[best] = replace(
        plain[best], value=0.0, stderr=0.0, why_no_error="the best itself"
    )
    if len(rivals) < 2:
        return tuple(estimates)
    covariance = _covariance(judged.weights, [sums[k] for k in comparable])
    samples = next(plain[k].samples for k in comparable if k != best)
    drawn = _draws(covariance, samples, seed)
    rows_of = {k: row for row, k in enumerate(comparable)}
    for k in comparable:
        if k == best:
            continue
        low, high = plain[k].interval(_LEVEL)
        rows = [rows_of[j] for j in rivals if j != k]
        reach = _reach(drawn, covariance, rows_of[k], rows) * plain[k].stderr
        estimates[k] = replace(plain[k], ends=(min(low, plain[k].value - reach), high))
    return tuple(estimates)


def _covariance(weights: Array, sums: Sequence[Array]) -> Array:
    # Of means that are ratios of sums.
    total, count = float(weights.sum()), int(np.count_nonzero(weights))
    squares = np.zeros((len(sums), len(sums)))
    values = np.array([each.sum() for each in sums]) / total
    for start in range(0, len(weights), _BLOCK):
        part = slice(start, start + _BLOCK)
        rows = np.stack([each[part] for each in sums]) - np.outer(values, weights[part])
        squares += rows @ rows.T
    scaled: Array = count / (count - 1) * squares / total**2
    return scaled


def _draws(covariance: Array, samples: int, seed: int) -> Array:
    source = np.random.default_rng(derive_seed(seed, "behind the best"))
    values, vectors = np.linalg.eigh(covariance)
    normal = source.standard_normal((_DRAWS, len(values))) * np.sqrt(np.maximum(values, 0))
    degrees = max(samples - 1, 1)
    spread = np.sqrt(degrees / source.chisquare(degrees, (_DRAWS, 1)))
    drawn: Array = normal @ vectors.T * spread
    return drawn


def _reach(drawn: Array, covariance: Array, own: int, others: list[int]) -> float:
    # How many standard errors the luckiest of the others may lie too low.
    variances = np.diag(covariance)
    squares = variances[own] + variances[others] - 2 * covariance[own, others]
    apart = squares > 1e-12 * variances[own]
    if not apart.any():
        return 0.0
    others = [j for j, is_apart in zip(others, apart, strict=True) if is_apart]
    scaled = (drawn[:, [own]] - drawn[:, others]) / np.sqrt(squares[apart])
    return float(np.quantile(scaled.max(1), 0.5 + _LEVEL / 2))
