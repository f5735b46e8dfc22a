"""Similarity of two representations of the same examples: linear CKA, debiased."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lossatlas.checks import check_flag
from lossatlas.curvature.activations import read_head
from lossatlas.curvature.arguments import check_count, checked_features
from lossatlas.curvature.instrument import Context, Parts, estimates_of, instrument
from lossatlas.errors import ArgumentError, DataError
from lossatlas.linalg.estimators import jackknife
from lossatlas.result import Estimate, Figure, Reference, Result, result, rows_figure
from lossatlas.text import with_error

_REFERENCE = Reference(
    "centered kernel alignment",
    "S. Kornblith, M. Norouzi, H. Lee, G. Hinton. Similarity of Neural Network Representations "
    "Revisited. ICML 2019.",
    "https://arxiv.org/abs/1905.00414",
)


@result("similarity", references=(_REFERENCE,))
class Similarity(Result):
    """How similar the features are to those of earlier checkpoints.

    Attributes:
        start: to those of the first, see `cka`.
        middle: to those half-way.
    """

    start: Estimate | None = None
    middle: Estimate | None = None

    def estimates(self) -> tuple[Estimate, ...]:
        """Both."""
        return estimates_of({"start": self.start, "middle": self.middle})

    def answer(self) -> tuple[str, str]:
        """The similarity to the features of the first checkpoint."""
        if self.start is None or not math.isfinite(self.start.value):
            return "not known", ""
        return (
            f"similarity {with_error(self.start.value, self.start.stderr)}; 1 is none",
            "sure",
        )

    def sentences(self) -> tuple[str, ...]:
        """How far the features have moved since the start."""
        if self.start is None or not math.isfinite(self.start.value):
            return ()
        shown = with_error(self.start.value, self.start.stderr)
        return (
            f"The similarity of the features to those of the first checkpoint is {shown} (CKA; "
            "1 is equal up to rotation and scale).",
        )

    def figures(self) -> tuple[Figure, ...]:
        """Both in one picture."""
        title, axis = "Similarity to earlier features", "CKA"
        return (rows_figure(title, self.estimates(), axis, is_minor=True),)


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

    Examples:
        >>> import torch
        >>> from lossatlas.curvature import cka
        >>> features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> round(cka(features, 2 * features.flip(1)).value, 3)
        1.0

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
    similarity = jackknife(alignment, len(x), folds=parts, seed=seed)
    kind = "debiased linear" if debiased else "linear"
    return replace(similarity, name="CKA", meaning=f"{kind} alignment of centered kernels")


@instrument(
    "similarity",
    title="Similarity to the start",
    question="How far have the features moved since training began?",
    group="features",
    cost="three passes",
    needs="two checkpoints of the training",
    references=(_REFERENCE,),
    reads=Similarity,
    place=3,
)
def survey_similarity(context: Context) -> Parts:
    """How similar the features are to those of earlier checkpoints."""
    last = len(context.checkpoints) - 1
    return {
        "start": lambda: _to_checkpoint(context, 0, "the first checkpoint"),
        "middle": lambda: _to_checkpoint(context, last // 2, "half-way"),
    }


def _to_checkpoint(context: Context, index: int, name: str) -> Estimate:
    if len(context.checkpoints) < 2:
        raise ArgumentError(
            "similarity needs two checkpoints of the training; pass checkpoints= (the command "
            "keeps them where it trains: --set train.steps=400)"
        )
    before = read_head(context.objective, context.checkpoints[index])
    similarity = cka(before.features, context.head.features, seed=context.seed)
    return replace(similarity, name=f"CKA with {name}")


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
