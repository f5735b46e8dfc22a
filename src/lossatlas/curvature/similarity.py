"""Similarity of two representations of the same examples: linear CKA, debiased."""

import math

import torch
from torch import Tensor

from lossatlas.checks import check_flag
from lossatlas.curvature.arguments import check_count
from lossatlas.curvature.representations import checked_features
from lossatlas.errors import ArgumentError, DataError
from lossatlas.linalg.estimators import jackknife
from lossatlas.result import Estimate


def cka(
    first: Tensor,
    second: Tensor,
    *,
    debiased: bool = True,
    folds: int = 10,
    seed: int = 0,
) -> Estimate:
    """Linear centered kernel alignment, invariant to rotations and to the scale of features.

    Without debiasing it tends to 1 for any two representations with more features than
    examples. The debiased one may be slightly negative for unrelated ones.

    Args:
        first: shape (examples, features).
        second: shape (examples, other features); the same examples in the same order.
        debiased: use the unbiased estimator of the alignment.
        folds: parts of the jackknife; below eight examples each is left out in turn.
        seed: deals examples to the folds.

    Returns:
        Between about 0 (unrelated) and 1 (equal up to rotation and scale), with a jackknife
        error over examples.

    Raises:
        DataError: not matrices, or different numbers of examples.
        ArgumentError: fewer than five examples for the debiased estimator (it is defined on
            four, and the jackknife leaves one out), four without debiasing, or one fold.
        NonFiniteError: a feature is NaN or infinite.

    Source: Kornblith et al., ICML 2019, arXiv:1905.00414; unbiased estimator: Song et al.,
        JMLR 13 (2012).
    """
    check_flag("debiased", debiased)
    x, y = checked_features(first), checked_features(second)
    if len(x) != len(y):
        raise DataError(
            f"`first` has {len(x)} examples and `second` {len(y)}; they must match."
        )
    check_count("folds", folds, 2)
    if len(x) < (5 if debiased else 4):
        needed = "debiased estimator needs five" if debiased else "biased estimator needs four"
        raise ArgumentError(f"the {needed} examples; got {len(x)}.")
    # Kernels of all examples serve every fold; centering once keeps rounding small.
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    inner = _unbiased if debiased else _biased

    def alignment(kept: Tensor) -> float:
        a, b = k[kept][:, kept], l[kept][:, kept]
        own, other = inner(a, a), inner(b, b)
        # Rounding may leave either a little below zero.
        return inner(a, b) / math.sqrt(own * other) if min(own, other) > 0 else math.nan

    parts = len(x) if len(x) < 8 else min(folds, len(x))
    return jackknife(alignment, len(x), folds=parts, seed=seed)


def _biased(a: Tensor, b: Tensor) -> float:
    centered = a - a.mean(0) - a.mean(1, keepdim=True) + a.mean()
    return float((centered * b).sum())


def _unbiased(a: Tensor, b: Tensor) -> float:
    n = len(a)
    a, b = (m - torch.diag(m.diagonal()) for m in (a, b))
    cross = float((a * b).sum())
    means = float(a.sum() * b.sum()) / ((n - 1) * (n - 2))
    mixed = 2 * float(a.sum(0) @ b.sum(0)) / (n - 2)
    return (cross + means - mixed) / (n * (n - 3))
