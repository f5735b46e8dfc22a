"""Errors of differences: what is known about a map whose points share their examples."""

import math

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.reals import real_array
from lossatlas.topology.field import Floats


def replicate_maps(examples: ArrayLike, *, count: int = 200, seed: int = 0) -> Floats:
    """Maps that other examples of the same kind might have given.

    Each example gets a random weight, the same at every point of the map, so that errors
    which the points share stay shared (the multiplier bootstrap).

    Args:
        examples: (examples, ...) loss of every example at every point. A point that is not
            finite for some example is not finite in any replicate.
        count: number of replicates; 200 make a threshold right to about a tenth.
        seed: of the weights.

    Returns:
        (count, ...) maps: the mean of the examples plus an error with the covariance that
        the examples show.

    Raises:
        ArgumentError: fewer than two examples, a `count` below 1 or a `seed` below 0.

    Source: Chernozhukov, Chetverikov, Kato, Ann. Statist. 41 (2013), arXiv:1212.6906.
    """
    check_at_least("count", count, 1)
    check_at_least("seed", seed, 0)
    losses = real_array("examples", examples)
    if losses.ndim < 2 or len(losses) < 2:
        raise ArgumentError(
            "`examples` must be losses of shape (examples, ...), of two examples or more; got "
            f"shape {losses.shape}."
        )
    number, source = len(losses), np.random.default_rng(seed)
    weights = source.standard_normal((count, number))
    # The examples tell their own spread; with few of them it may be far off (Student's t).
    weights *= np.sqrt((number - 1) / source.chisquare(number - 1, (count, 1)))
    mean = losses.mean(axis=0)
    errors = np.tensordot(weights, losses - mean, axes=1)
    return np.asarray(mean + errors / math.sqrt(number * (number - 1)))


def oscillation_bound(errors: Floats, confidence: float) -> float:
    """How much the error of the difference of any two points of a map can be.

    Args:
        errors: (count, points) errors of whole maps, as in `Field.errors`.
        confidence: probability with which the bound holds for all pairs at once.

    Returns:
        The quantile of the greatest minus the least error of a map.
    """
    return _quantile(np.ptp(errors, axis=1), confidence)


def contrast_band(errors: Floats, origin: int, confidence: float) -> Floats:
    """A bound on the error of every point's difference from one of them.

    Args:
        errors: (count, points) errors of whole maps, as in `Field.errors`.
        origin: the point that all are compared with.
        confidence: probability with which the bounds hold at once.

    Returns:
        One bound a point, 0 at the origin: its own deviation times one common factor.
    """
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
