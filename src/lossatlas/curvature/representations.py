"""Representations: how many directions the features of a layer use."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lossatlas.checks import check_flag, check_number, check_one_of
from lossatlas.curvature.arguments import check_count
from lossatlas.errors import ArgumentError, DataError, NonFiniteError
from lossatlas.linalg.estimators import jackknife
from lossatlas.result import Estimate

SPECTRA = ("singular", "eigen")
RANKS = ("entropy", "participation", "stable")


def rankme(
    features: Tensor,
    *,
    spectrum: str = "singular",
    center: bool = False,
    epsilon: float = 1e-7,
    folds: int = 10,
    seed: int = 0,
) -> Estimate:
    """RankMe: the exponential of the entropy of the normalized spectrum.

    The convention matters: the paper takes singular values of features as they are; work on
    language models has taken eigenvalues of their covariance (spectrum="eigen", center=True).
    It is at most min(examples, features); five to ten times as many examples as features keep
    that limit out of sight.

    Args:
        features: shape (examples, features).
        spectrum: "singular" values, or "eigen" values (their squares).
        center: subtract the mean feature first.
        epsilon: added to each share, as in the paper.
        folds: parts of the jackknife.
        seed: deals examples to the folds.

    Returns:
        Effective number of directions, with a jackknife error over examples.

    Raises:
        DataError: not a matrix, or no examples.
        NonFiniteError: a feature is NaN or infinite.
        UnknownNameError: an unknown spectrum.

    Source: Garrido et al., ICML 2023, arXiv:2210.02885.
    """
    check_number("epsilon", epsilon, 0)
    check_flag("center", center)
    check_one_of("spectrum", spectrum, SPECTRA)

    def rank(values: Tensor) -> float:
        sizes = values if spectrum == "singular" else values**2
        total = float(sizes.sum())
        if not total:
            return math.nan
        share = sizes / total + epsilon
        # A direction without features has the share 0, and 0 log 0 is 0.
        return math.exp(float(torch.special.entr(share).sum()))

    return _of_spectrum(features, rank, center, folds, seed)


def effective_rank(
    features: Tensor,
    kind: str = "entropy",
    *,
    center: bool = True,
    folds: int = 10,
    seed: int = 0,
) -> Estimate:
    """Effective rank in one of three common senses.

    Args:
        features: shape (examples, features).
        kind: "entropy": exp of the entropy of singular values; "participation": squared sum of
            covariance eigenvalues over sum of squares; "stable": their sum over the largest.
        center: subtract the mean feature first.
        folds: parts of the jackknife.
        seed: deals examples to the folds.

    Returns:
        Effective number of directions, with a jackknife error over examples.

    Raises:
        DataError: not a matrix, or no examples.
        NonFiniteError: a feature is NaN or infinite.
        UnknownNameError: an unknown kind.

    Source: Roy and Vetterli, EUSIPCO 2007 (entropy).
    """
    check_flag("center", center)
    check_one_of("kind", kind, RANKS)
    if kind == "entropy":
        return rankme(features, center=center, epsilon=0.0, folds=folds, seed=seed)

    def rank(values: Tensor) -> float:
        power = values**2
        if not float(power.sum()):
            return math.nan
        ratio = power.sum() ** 2 / (power**2).sum() if kind == "participation" else None
        return float(power.sum() / power.max() if ratio is None else ratio)

    return _of_spectrum(features, rank, center, folds, seed)


def alpha_req(
    features: Tensor,
    *,
    first: int | None = None,
    last: int | None = None,
    folds: int = 10,
    seed: int = 0,
) -> Estimate:
    """alpha-ReQ: how fast covariance eigenvalues decay, lambda_i ~ i^-alpha.

    A line is fitted to log lambda over log i between two ranks. The head follows no power law
    and the tail is sampling noise: by default the fit begins at the 11th eigenvalue (or a tenth
    of the way, where there are few) and ends half way. Ranks count up to the numerical rank
    of the features: singular values below it are rounding, of float32 where the features went
    through it.

    Args:
        features: shape (examples, features).
        first: first rank of the fit, counted from 1.
        last: last rank of the fit.
        folds: parts of the jackknife.
        seed: deals examples to the folds.

    Returns:
        alpha, with a jackknife error over examples; NaN with a reason where the range goes
        beyond the numerical rank.

    Raises:
        ArgumentError: fewer than three ranks to fit.
        DataError: not a matrix, or no examples.
        NonFiniteError: a feature is NaN or infinite.

    Source: Agrawal et al., NeurIPS 2022 (alpha-ReQ).
    """
    matrix = checked_features(features)
    for name, value in (("first", first), ("last", last)):
        if value is not None:
            check_count(name, value, 1)
    most = min(len(matrix) - 1, matrix.shape[1])
    ranks = _numerical_rank(features, matrix)
    begin = min(11, 1 + ranks // 10) if first is None else first
    end = ranks // 2 if last is None else last
    if end > max(most, 2):
        raise ArgumentError(
            f"`last` must be at most the number of ranks, {most}; got {end}: take more "
            "features, or another range."
        )
    if end - begin < 2 and (ranks == most or first is not None or last is not None):
        raise ArgumentError(
            f"a slope needs three ranks between `first` and `last`, at most {most}; "
            f"got {begin} to {end}: take more features, or another range."
        )
    if end > ranks or end - begin < 2:
        why = f"the features have rank {ranks} within rounding: {begin} to {end} fits noise"
        return Estimate(math.nan, math.nan, samples=0, why_no_error=why)
    place = torch.arange(begin, end + 1, dtype=torch.float64).log()

    def slope(values: Tensor) -> float:
        chosen = values[begin - 1 : end] ** 2
        if len(chosen) < len(place) or float(chosen.min()) <= 0:
            return math.nan
        height = chosen.log() - chosen.log().mean()
        return -float(
            (height * (place - place.mean())).sum() / (place - place.mean()).square().sum()
        )

    return _of_spectrum(features, slope, True, folds, seed)


def _numerical_rank(features: Tensor, matrix: Tensor) -> int:
    # Features that went through float32 have its rounding, whatever type holds them now.
    values = torch.linalg.svdvals(matrix - matrix.mean(0))
    rounding = max(matrix.shape) * _precision(features) * float(matrix.norm(dim=1).max())
    floor = max(max(matrix.shape) * _precision(features) * float(values.max()), rounding)
    return int((values > floor).sum())


def _precision(features: Tensor) -> float:
    kinds = (torch.bfloat16, torch.float16, torch.float32)
    held = (k for k in kinds if bool((features.to(k).to(features.dtype) == features).all()))
    return torch.finfo(next(held, torch.float64)).eps


def _of_spectrum(
    features: Tensor, statistic: Callable[[Tensor], float], center: bool, folds: int, seed: int
) -> Estimate:
    matrix = checked_features(features)
    check_count("folds", folds, 2)

    def of_kept(kept: Tensor) -> float:
        rows = matrix[kept]
        return statistic(torch.linalg.svdvals(rows - rows.mean(0) if center else rows))

    return jackknife(of_kept, len(matrix), folds=folds, seed=seed)


def checked_features(features: Tensor) -> Tensor:
    """Require a finite matrix with examples."""
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.numel():
        shape = (
            tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        )
        raise DataError(f"`features` must have shape (examples, features); got {shape}.")
    if not bool(torch.isfinite(features).all()):
        raise NonFiniteError("a feature is NaN or infinite; leave such examples out.")
    return features.detach().double().cpu()
