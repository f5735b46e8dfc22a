"""Errors of differences: what is known about a map whose points share their examples."""

import math

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Floats, without_mask

# Of fewer skewed examples no spread holds 95 %, and one that a few of them carry is told by
# fewer still: both by docs/studies/certainty.
_FEWEST = 8
_CARRIED = 2 / 3


def replicate_maps(examples: ArrayLike, *, count: int = 200, seed: int = 0) -> Floats:
    """Maps that other examples of the same kind might have given.

    Each example gets a random weight, the same at every point of the map, so that errors
    which the points share stay shared (the multiplier bootstrap). The weights of a replicate
    share a factor of Student's t, for the examples tell their own spread too. Its degrees of
    freedom are one less than the examples, and at most 2/3 over the largest share of the
    variance that one example carries, on average over the points: where few examples carry
    the spread, few tell it.

    Args:
        examples: (examples, ...) loss of every example at every point. A point that is not
            finite for some example is not finite in any replicate.
        count: number of replicates; 200 make a threshold right to about a tenth.
        seed: of the weights.

    Returns:
        (count, ...) maps: the mean of the examples plus an error with the covariance that
        the examples show.

    Raises:
        ArgumentError: fewer than eight examples, a `count` below 1 or a `seed` below 0.

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
            f"examples; got shape {losses.shape}; fewer do not tell their spread."
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
    # The largest share of the variance that one example carries, points counted alike.
    squares = (apart**2).reshape(len(apart), -1)
    total = squares.sum(axis=0)
    known = np.isfinite(total) & (total > 0)
    if not known.any():
        return 1.0
    return float((squares[:, known] / total[known]).mean(axis=1).max())


def oscillation_bound(errors: Floats, confidence: float) -> float:
    """How much the error of the difference of any two points of a map can be."""
    return _quantile(np.ptp(errors, axis=1), confidence)


def contrast_band(errors: Floats, origin: int, confidence: float) -> Floats:
    """A bound on the error of every point's difference from one of them."""
    contrasts = errors - errors[:, [origin]]
    deviation = np.sqrt(np.mean(contrasts**2, axis=0))
    known = deviation > 0
    shares = np.abs(contrasts[:, known]) / deviation[known]
    band: Floats = deviation * _quantile(shares.max(axis=1, initial=0.0), confidence)
    return band


def _quantile(values: Floats, confidence: float) -> float:
    # The least order statistic that a further replicate stays below often enough.
    rank = math.ceil(confidence * (values.size + 1))
    if rank > values.size:
        need = math.ceil(confidence / (1.0 - confidence))
        raise ArgumentError(
            f"`replicates` must be at least {need} for a confidence of {confidence}; got "
            f"{values.size}."
        )
    return float(np.sort(values)[rank - 1])
