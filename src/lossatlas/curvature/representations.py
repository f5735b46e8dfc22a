"""Representations: how many directions the features of a layer use."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from lossatlas.checks import check_flag, check_number, check_one_of
from lossatlas.curvature.arguments import check_count, checked_features
from lossatlas.curvature.instrument import Context, Parts, estimates_of, instrument
from lossatlas.errors import ArgumentError
from lossatlas.linalg.estimators import jackknife
from lossatlas.result import Estimate, Figure, Reference, Result, result, rows_figure
from lossatlas.text import with_error

SpectrumKind = Literal["singular", "eigen"]
SPECTRA: tuple[str, ...] = get_args(SpectrumKind)
RankKind = Literal["entropy", "participation", "stable"]
RANKS: tuple[str, ...] = get_args(RankKind)
_RANK_NAMES = {
    "entropy": ("effective rank", "exp of the entropy of singular values, features centered"),
    "participation": ("participation ratio", "of the covariance's eigenvalues"),
    "stable": ("stable rank", "sum of the covariance's eigenvalues over the largest"),
}
_REFERENCE = Reference(
    "RankMe",
    "Q. Garrido, R. Balestriero, L. Najman, Y. LeCun. RankMe. ICML 2023.",
    "https://arxiv.org/abs/2210.02885",
)
_ALPHA = Estimate(
    math.nan, name="alpha-ReQ", meaning="decay of the covariance's eigenvalues, i^-alpha"
)


@result("representations", references=(_REFERENCE,))
class Representations(Result):
    """How many directions the features of a layer use, as far as that could be measured.

    Attributes:
        rankme: see `rankme`.
        effective_rank: see `effective_rank`; of entropy.
        participation: the participation ratio.
        alpha_req: see `alpha_req`.
    """

    rankme: Estimate | None = None
    effective_rank: Estimate | None = None
    participation: Estimate | None = None
    alpha_req: Estimate | None = None

    @property
    def _ranks(self) -> dict[str, Estimate | None]:
        names = ("rankme", "effective_rank", "participation")
        return {name: getattr(self, name) for name in names}

    def estimates(self) -> tuple[Estimate, ...]:
        """All of them."""
        return estimates_of(self._ranks | {"alpha_req": self.alpha_req})

    def sentences(self) -> tuple[str, ...]:
        """How many directions the features use."""
        if self.rankme is None or self.effective_rank is None:
            return ()
        effective, rank = (
            with_error(each.value, each.stderr) for each in (self.effective_rank, self.rankme)
        )
        return (
            f"The features of the last layer use about {effective} directions ({rank} before "
            "centering, RankMe).",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The three ranks."""
        title, axis = "Ranks of the features", "effective number of directions"
        return (rows_figure(title, estimates_of(self._ranks), axis),)


def rankme(
    features: Tensor,
    *,
    spectrum: SpectrumKind = "singular",
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

    Examples:
        >>> import torch
        >>> from lossatlas.curvature import rankme
        >>> features = torch.cat([torch.eye(4), -torch.eye(4)]).double()
        >>> round(rankme(features).value, 3)
        4.0

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

    how = "" if (spectrum, center) == ("singular", False) else ", another convention"
    meaning = f"exp of the entropy of {spectrum} values, features as they are{how}"
    estimate = _of_spectrum(features, rank, center, folds, seed)
    return replace(estimate, name="RankMe", meaning=meaning)


def effective_rank(
    features: Tensor,
    kind: RankKind = "entropy",
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

    Examples:
        >>> import torch
        >>> from lossatlas.curvature import effective_rank
        >>> features = torch.cat([torch.eye(4), -torch.eye(4)]).double()
        >>> round(effective_rank(features, "participation").value, 3)
        4.0

    Source: Roy and Vetterli, EUSIPCO 2007 (entropy).
    """
    check_flag("center", center)
    check_one_of("kind", kind, RANKS)
    name, meaning = _RANK_NAMES[kind]
    if kind == "entropy":
        estimate = rankme(features, center=center, epsilon=0.0, folds=folds, seed=seed)
        return replace(estimate, name=name, meaning=meaning)

    def rank(values: Tensor) -> float:
        power = values**2
        if not float(power.sum()):
            return math.nan
        ratio = power.sum() ** 2 / (power**2).sum() if kind == "participation" else None
        return float(power.sum() / power.max() if ratio is None else ratio)

    estimate = _of_spectrum(features, rank, center, folds, seed)
    return replace(estimate, name=name, meaning=meaning)


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

    Examples:
        >>> import torch
        >>> from lossatlas.curvature import alpha_req
        >>> drawn = torch.Generator().manual_seed(0)
        >>> alpha_req(torch.randn(60, 20, generator=drawn).double()).name
        'alpha-ReQ'

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
        return replace(_ALPHA, why_no_error=why)
    place = torch.arange(begin, end + 1, dtype=torch.float64).log()

    def slope(values: Tensor) -> float:
        chosen = values[begin - 1 : end] ** 2
        if len(chosen) < len(place) or float(chosen.min()) <= 0:
            return math.nan
        height = chosen.log() - chosen.log().mean()
        return -float(
            (height * (place - place.mean())).sum() / (place - place.mean()).square().sum()
        )

    estimate = _of_spectrum(features, slope, True, folds, seed)
    return replace(estimate, name=_ALPHA.name, meaning=_ALPHA.meaning)


@instrument(
    "representations",
    title="Representations",
    question="How many directions do the features use?",
    group="features",
    cost="one pass",
    needs="a linear layer",
    references=(_REFERENCE,),
    reads=Representations,
    place=1,
)
def survey_representations(context: Context) -> Parts:
    """How many directions the features of the last layer use."""
    seed = context.seed
    return {
        "rankme": lambda: rankme(context.head.features, seed=seed),
        "effective_rank": lambda: effective_rank(context.head.features, seed=seed),
        "participation": lambda: effective_rank(
            context.head.features, "participation", seed=seed
        ),
        "alpha_req": lambda: alpha_req(context.head.features, seed=seed),
    }


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
