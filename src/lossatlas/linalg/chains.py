"""Means of Markov chains with their errors, and a mixing check."""

import math
from dataclasses import replace

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.linalg.estimators import mean_of
from lossatlas.result import Estimate

Array = NDArray[np.float64]

# Batch means are so many correlation times long; a chain gives this many at most.
_LENGTH, _MEANS = 10, 32
# So many batch means of all chains determine the share of a control variate.
_CONTROLLED = 20
# Chains that differ by more than chance this often are not mixed.
_DISAGREE = 1e-3
# Scatter below this share of the mean is rounding: a control may leave no more.
_ROUNDING = 1e-6


def subtract_control(series: Array, controls: Array) -> tuple[Array, float]:
    """Subtract from a series its regression on a control variate of mean zero.

    Args:
        series: the series, shape (chains, draws).
        controls: the control variate, same shape.

    Returns:
        A series with the same mean and less variance, and the correlation time of the controls;
        the series itself and 0 if there are too few batch means.
    """
    _, count = _batches(series)
    if count * len(series) < _CONTROLLED:
        return series, 0.0
    first, second = (_batch_means(each, count).ravel() for each in (series, controls))
    first, second = first - first.mean(), second - second.mean()
    squares = float(second @ second)
    if not squares:
        return series, 0.0
    share = float(first @ second) / squares
    return series - share * controls, _correlation_time(controls)


def mean_of_chains(series: Array, control_time: float = 0.0) -> tuple[Estimate, bool]:
    """The mean over chains with its batch-means error, and whether the chains mixed.

    Args:
        series: shape (chains, draws).
        control_time: correlation time of a control variate that was subtracted; 0 for none.

    Returns:
        The mean with its error, or NaN and the reason if the chains did not mix, and whether
        they did.
    """
    chains, draws = series.shape
    mean, scatter = float(series.mean()), float(series.std())
    if scatter <= _ROUNDING * abs(mean):
        return Estimate(mean, scatter, series.size, chains * _MEANS), True
    time, count = _batches(series)
    if count < 2:
        why = (
            f"the chains did not mix: losses are correlated over {time:.0f} of {draws:,} "
            "draws; use more `draws` or a larger `localization`"
        )
        return Estimate(math.nan, samples=chains, why_no_error=why), False
    kept = _batch_means(series, count)
    if _disagree(kept):
        why = "the chains did not mix: they differ by more than chance; use more `draws`"
        return Estimate(math.nan, samples=chains, why_no_error=why), False
    found = mean_of(kept.ravel(), products=series.size)
    away = kept.ravel() - found.value
    # Batch means vary too little by the share that they are correlated, with controls by part
    # of theirs; and by the share of the controls, which was fitted to the same means.
    left = max(time, (time + control_time) / 2)
    fitted = (1 + 1 / kept.size) * (kept.size - 1) / (kept.size - 2) if control_time else 1.0
    correlated = math.sqrt((1 + left / (draws // count)) * fitted)
    squares = float(np.square(away).sum()) or 1.0
    return replace(
        found,
        value=mean,
        stderr=found.stderr * correlated,
        skewness=float((away**3).sum()) / squares**1.5,
        sample_unit="batch means",
    ), True


def _batches(series: Array) -> tuple[float, int]:
    # Correlation time, and how many batch means a chain gives.
    time = _correlation_time(series)
    return time, min(int(series.shape[1] / (_LENGTH * time)), _MEANS)


def _batch_means(series: Array, count: int) -> Array:
    chains, draws = series.shape
    means: Array = series[:, : draws // count * count].reshape(chains, count, -1).mean(2)
    return means


def _disagree(means: Array) -> bool:
    chains, count = means.shape
    if chains < 2:
        return False
    within = float(means.var(axis=1, ddof=1).mean())
    between = count * float(means.mean(1).var(ddof=1))
    if not within:
        return bool(between > 0)
    chance = scipy.stats.f.sf(between / within, chains - 1, chains * (count - 1))
    return bool(chance < _DISAGREE)


def _correlation_time(series: Array) -> float:
    # Sum of autocorrelations up to the first pair that is not positive (Geyer 1992).
    draws = series.shape[1]
    centered = series - series.mean()
    spectrum = np.abs(np.fft.rfft(centered, 2 * draws, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :draws].mean(0)
    if not covariance[0] > 0:
        return 1.0
    pairs = (covariance[: draws // 2 * 2] / covariance[0]).reshape(-1, 2).sum(1)
    below = np.flatnonzero(pairs <= 0)
    positive = pairs[: below[0]] if len(below) else pairs
    return max(float(2 * positive.sum() - 1), 1.0)
