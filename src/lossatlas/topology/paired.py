"""Errors of differences between points of a map that share their examples."""

import math

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Floats, without_mask

# With fewer skewed examples no spread reaches 95 % coverage, and if a few examples dominate the
# variance, fewer still estimate it: see docs/studies/certainty for both.
_FEWEST = 8
_CARRIED = 2 / 3


def replicate_maps(examples: ArrayLike, *, count: int = 200, seed: int = 0) -> Floats:
    """Bootstrap maps that other samples of examples might have given.

    Each example gets one random weight for all points of the map, so errors that points share
    remain shared (the multiplier bootstrap). The weights of a replicate share a Student's t
    factor, because the spread is itself estimated from the examples. Its degrees of freedom are
    the number of examples minus one, and at most 2/3 divided by the largest share of the
    variance that one example contributes, averaged over the points: if few examples dominate
    the variance, few estimate it.

    Args:
        examples: (examples, ...) loss of every example at every point. A point that is
            non-finite for some example is non-finite in every replicate.
        count: number of replicates; 200 determine a threshold to within about 10 %.
        seed: random seed of the weights.

    Returns:
        (count, ...) maps: the mean of the examples plus an error with their empirical
        covariance.

    Raises:
        ArgumentError: there are fewer than eight examples, or `count` is below 1 or `seed`
            below 0.

    Examples:
        >>> import numpy as np
        >>> examples = np.random.default_rng(0).normal(size=(50, 9))
        >>> replicate_maps(examples, count=20).shape
        (20, 9)

    Source: Chernozhukov, Chetverikov, Kato, Ann. Statist. 41 (2013), arXiv:1212.6906.
    """
    check_at_least("count", count, 1)
    check_at_least("seed", seed, 0)
    losses = as_float_array("examples", without_mask(examples))
    if losses.ndim < 2 or len(losses) < _FEWEST:
        raise ArgumentError(
            f"`examples` must be losses of shape (examples, ...), of at least {_FEWEST} "
            f"examples; got shape {losses.shape}; fewer do not determine their spread."
        )
    number, source = len(losses), np.random.default_rng(seed)
    weights = source.standard_normal((count, number))
    mean = losses.mean(axis=0)
    apart = losses - mean
    degrees = min(number - 1.0, _CARRIED / _leverage(apart))
    weights *= np.sqrt(degrees / source.chisquare(degrees, (count, 1)))
    errors = np.tensordot(weights, apart, axes=1)
    return np.asarray(mean + errors / math.sqrt(number * (number - 1)))


def _leverage(apart: Floats) -> float:
    # Largest share of the variance that one example contributes, averaged over the points.
    squares = (apart**2).reshape(len(apart), -1)
    total = squares.sum(axis=0)
    has_variance = np.isfinite(total) & (total > 0)
    if not has_variance.any():
        return 1.0
    return float((squares[:, has_variance] / total[has_variance]).mean(axis=1).max())


def oscillation_bound(errors: Floats, confidence: float) -> float:
    """Bound on the error of the difference between any two points of a map."""
    return _quantile(np.ptp(errors, axis=1), confidence)


def contrast_band(errors: Floats, origin: int, confidence: float) -> Floats:
    """Bound on the error of every point's difference from `origin`."""
    contrasts = errors - errors[:, [origin]]
    deviation = np.sqrt(np.mean(contrasts**2, axis=0))
    has_spread = deviation > 0
    shares = np.abs(contrasts[:, has_spread]) / deviation[has_spread]
    band: Floats = deviation * _quantile(shares.max(axis=1, initial=0.0), confidence)
    return band


def _quantile(values: Floats, confidence: float) -> float:
    # Smallest order statistic that bounds a further replicate with this confidence.
    rank = math.ceil(confidence * (values.size + 1))
    if rank > values.size:
        need = math.ceil(confidence / (1.0 - confidence))
        raise ArgumentError(
            f"`replicates` must be at least {need} for a confidence of {confidence}; got "
            f"{values.size}."
        )
    return float(np.sort(values)[rank - 1])
