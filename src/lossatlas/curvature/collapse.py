"""Neural collapse: within-class scatter vanishes, class means spread out evenly."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_flag
from lossatlas.curvature.arguments import check_count, check_tensor, checked_features
from lossatlas.curvature.group_data import target_classes
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.errors import DataError, NonFiniteError
from lossatlas.linalg.estimators import jackknife
from lossatlas.result import Estimate, Figure, Reference, Result, result, rows_figure
from lossatlas.text import percent, with_error

# Directions of between-class scatter below this share of the largest are rounding.
_RANK = 1e-9
# Distances below this share of the features' own length are rounding too.
_ROUNDING = 1e-12

_EQUAL = "the class means are equal, so nothing between classes sets a scale"
_WHY_NO_VALUE = {
    "within": _EQUAL,
    "norms": _EQUAL,
    "angles": "a class mean lies at the center of all, so it has no direction",
    "orthogonal": "a class mean is zero, so it has no direction",
    "self_dual": "the class means are equal, or the classifier is zero",
    "nearest": "the class means are equal, so none is nearest",
}


_REFERENCE = Reference(
    "neural collapse",
    "V. Papyan, X. Y. Han, D. L. Donoho. Prevalence of neural collapse during the terminal "
    "phase of deep learning training. PNAS 2020.",
    "https://arxiv.org/abs/2008.08186",
)


@result("neural_collapse", references=(_REFERENCE,))
class NeuralCollapse(Result):
    """The four signs of neural collapse, each with a jackknife error over examples.

    A sign is NaN, and its error says why, where it has no meaning: class means that are all
    equal (constant features, say) have neither lengths nor angles.

    Attributes:
        within: NC1, tr(S_W S_B^+) / C; 0 is collapse.
        norms: NC2, standard deviation of the lengths of centered class means over their mean;
            0 is equal lengths.
        angles: NC2, mean distance of their cosines from -1 / (C - 1); 0 is a simplex.
        orthogonal: mean |cosine| of the means as they are; 0 is an orthogonal frame, the form
            that unbalanced classes and squared error without bias lead to.
        self_dual: NC3, distance between classifier and centered means, each of length 1; 0 is
            alignment. NaN without a classifier.
        nearest: NC4, share of examples where the classifier differs from the nearest class
            mean; NaN without a classifier.
        counts: examples of each class.
        balanced: whether the global mean and S_W weigh classes alike (True) or examples alike.
    """

    within: Estimate
    norms: Estimate
    angles: Estimate
    orthogonal: Estimate
    self_dual: Estimate
    nearest: Estimate
    counts: tuple[int, ...]
    balanced: bool

    def estimates(self) -> tuple[Estimate, ...]:
        """NC1 to NC4."""
        signs = (
            ("NC1", self.within, "scatter within classes over that between them"),
            ("NC2, lengths", self.norms, "how unequal the class means are in length"),
            ("NC2, angles", self.angles, "how far their cosines are from a simplex"),
            ("NC2, orthogonal", self.orthogonal, "mean |cosine|"),
            ("NC3", self.self_dual, "distance of the classifier from the class means"),
            ("NC4", self.nearest, "share where the nearest class mean disagrees"),
        )
        return tuple(
            replace(estimate, name=n, meaning=m, is_minor=n == "NC2, orthogonal")
            for n, estimate, m in signs
        )

    def answer(self) -> tuple[str, str]:
        """The scatter within classes over that between them, which is 0 for points."""
        if not math.isfinite(self.within.value):
            return "not known", ""
        shown = with_error(self.within.value, self.within.stderr)
        return f"NC1 is {shown}, where points have 0", "sure"

    def sentences(self) -> tuple[str, ...]:
        """How far classes have collapsed to points."""
        if not math.isfinite(self.within.value):
            return ()
        shown = with_error(self.within.value, self.within.stderr)
        start = (
            "Neural collapse: scatter within classes over that between them (NC1) is " + shown
        )
        if not math.isfinite(self.nearest.value):
            return (f"{start}.",)
        near = percent(1 - self.nearest.value)
        return (
            f"{start}; the nearest class mean decides as the network does for {near} of the "
            "examples.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """All signs; 0 is collapse."""
        caption = "Each sign is 0 where classes have collapsed."
        title, axis = "Signs of collapse", "distance from collapse"
        return (rows_figure(title, self.estimates(), axis, log=True, caption=caption),)


def neural_collapse(
    features: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    balanced: bool = True,
    folds: int = 10,
    seed: int = 0,
) -> NeuralCollapse:
    """Measure neural collapse on features of the last hidden layer.

    Args:
        features: inputs of the classifier, shape (examples, features).
        labels: class of each example, shape (examples,).
        weight: of the classifier, shape (classes, features), a row for each label present.
        bias: of the classifier, shape (classes,).
        balanced: weigh classes alike; False weighs examples alike.
        folds: parts of the jackknife.
        seed: deals examples to the folds.

    Returns:
        All four signs.

    Raises:
        DataError: wrong shapes, fewer than two classes, or a class with fewer than two
            examples.
        NonFiniteError: a feature, or a number of the classifier, is NaN or infinite.

    Examples:
        Features that are the class means themselves have collapsed:

        >>> import torch
        >>> from lossatlas.curvature import neural_collapse
        >>> labels = torch.arange(12) % 3
        >>> neural_collapse(torch.eye(3).double()[labels], labels).within.value
        0.0

    Source: Papyan, Han, Donoho, PNAS 2020, arXiv:2008.08186; unbalanced: arXiv:2301.00437.
    """
    check_flag("balanced", balanced)
    _check_tensors(labels=labels, weight=weight, bias=bias)
    check_count("folds", folds, 2)
    matrix = checked_features(features)
    classes, places, counts = _checked_labels(labels, matrix, weight)
    measures_of = {
        "within": lambda m, p: _within(m, p, classes, balanced),
        "norms": lambda m, p: _norms(_centered(m, p, classes, balanced)),
        "angles": lambda m, p: _angles(_centered(m, p, classes, balanced)),
        "orthogonal": lambda m, p: _orthogonal(m, _means(m, p, classes)),
    }
    if weight is not None:
        w, b = _classifier(weight, bias)
        measures_of["self_dual"] = lambda m, p: _dual(_centered(m, p, classes, balanced), w)
        measures_of["nearest"] = lambda m, p: _disagreement(
            m, _centered(m, p, classes, balanced), _means(m, p, classes), w, b
        )
    estimates = {
        name: _reasoned(
            name,
            jackknife(
                lambda kept, of=of: of(matrix[kept], places[kept]),  # type: ignore[misc]
                len(matrix),
                folds=min(folds, *counts),
                seed=seed,
                strata=places,
            ),
        )
        for name, of in measures_of.items()
    }
    missing = Estimate(math.nan, math.nan, why_no_error="no classifier was given")
    measures: dict[str, Any] = {"self_dual": missing, "nearest": missing} | estimates
    return NeuralCollapse(
        **measures,
        counts=tuple(counts),
        balanced=balanced,
    )


def _check_tensors(*, labels: Any, weight: Any, bias: Any) -> None:
    check_tensor("labels", labels)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            check_tensor(name, value)


def _reasoned(name: str, estimate: Estimate) -> Estimate:
    lost = math.isnan(estimate.value)
    return replace(estimate, why_no_error=_WHY_NO_VALUE[name]) if lost else estimate


def _checked_labels(
    labels: Tensor, matrix: Tensor, weight: Tensor | None
) -> tuple[int, Tensor, list[int]]:
    if labels.shape != (len(matrix),) or labels.is_floating_point():
        raise DataError(
            f"`labels` must be one whole number an example, shape ({len(matrix)},); got "
            f"{tuple(labels.shape)} of {labels.dtype}."
        )
    values, places = torch.unique(labels.cpu(), return_inverse=True)
    counts = torch.bincount(places).tolist()
    if len(values) < 2 or min(counts) < 2:
        raise DataError(
            "neural collapse needs two classes with two examples each; got counts "
            f"{dict(zip(values.tolist(), counts, strict=True))}."
        )
    if weight is not None and weight.shape != (len(values), matrix.shape[1]):
        raise DataError(
            "`weight` must have a row for each class present, shape "
            f"{(len(values), matrix.shape[1])}; got {tuple(weight.shape)}."
        )
    return len(values), places, counts


def _classifier(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    w = weight.detach().double().cpu()
    b = torch.zeros(len(w)).double() if bias is None else bias.detach().double().cpu()
    if b.shape != (len(w),):
        raise DataError(f"`bias` must have shape ({len(w)},); got {tuple(b.shape)}.")
    for name, value in (("weight", w), ("bias", b)):
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"`{name}` holds NaN or inf; check the weights.")
    return w, b


def _means(matrix: Tensor, places: Tensor, classes: int) -> Tensor:
    sums = torch.zeros(classes, matrix.shape[1], dtype=matrix.dtype)
    sums.index_add_(0, places, matrix)
    means: Tensor = sums / torch.bincount(places, minlength=classes)[:, None]
    return means


def _shares(places: Tensor, classes: int, balanced: bool) -> Tensor:
    counts = torch.bincount(places, minlength=classes).double()
    return (
        torch.full((classes,), 1 / classes, dtype=torch.float64)
        if balanced
        else counts / counts.sum()
    )


def _centered(matrix: Tensor, places: Tensor, classes: int, balanced: bool) -> Tensor:
    means = _means(matrix, places, classes)
    centered: Tensor = means - _shares(places, classes, balanced) @ means
    return _without_rounding(centered, matrix)


def _without_rounding(vectors: Tensor, matrix: Tensor) -> Tensor:
    long = vectors.norm(dim=1, keepdim=True) > _ROUNDING * matrix.norm(dim=1).max()
    return torch.where(long, vectors, 0.0)


def _within(matrix: Tensor, places: Tensor, classes: int, balanced: bool) -> float:
    centered = _centered(matrix, places, classes, balanced)
    shares = _shares(places, classes, balanced)
    counts = torch.bincount(places, minlength=classes)
    rest = matrix - _means(matrix, places, classes)[places]
    weights = (shares / counts)[places]
    # S_B has at most C - 1 directions: its pseudo-inverse acts on those alone.
    _, sizes, rows = torch.linalg.svd(shares.sqrt()[:, None] * centered, full_matrices=False)
    if not sizes.any():
        return math.nan
    live = sizes > _RANK**0.5 * sizes.max()
    along = rest @ rows[live].T / sizes[live]
    return float((weights[:, None] * along**2).sum()) / classes


def _norms(centered: Tensor) -> float:
    lengths = centered.norm(dim=1)
    return float(lengths.std(correction=0) / lengths.mean())


def _cosines(means: Tensor) -> Tensor:
    unit = means / means.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(len(means), len(means), 1)
    cosines: Tensor = (unit[first] * unit[second]).sum(1)
    return cosines


def _orthogonal(matrix: Tensor, means: Tensor) -> float:
    return float(_cosines(_without_rounding(means, matrix)).abs().mean())


def _angles(centered: Tensor) -> float:
    return float((_cosines(centered) + 1 / (len(centered) - 1)).abs().mean())


def _dual(centered: Tensor, weight: Tensor) -> float:
    return float((weight / weight.norm() - centered / centered.norm()).norm())


def _disagreement(
    matrix: Tensor, centered: Tensor, means: Tensor, weight: Tensor, bias: Tensor
) -> float:
    if not centered.any():
        return math.nan
    chosen = (matrix @ weight.T + bias).argmax(1)
    return float((torch.cdist(matrix, means).argmin(1) != chosen).double().mean())


@instrument(
    "collapse",
    title="Neural collapse",
    question="Have the classes collapsed to points?",
    group="features",
    cost="one pass",
    needs="classes, two examples of each; a linear layer",
    references=(_REFERENCE,),
    place=2,
)
def survey_collapse(context: Context) -> Parts:
    """Neural collapse of the features of the last layer."""
    return {"collapse": lambda: _of_head(context)}


def _of_head(context: Context) -> NeuralCollapse:
    head, objective = context.head, context.objective
    classes = torch.cat(objective.map_batches(lambda batch: target_classes(batch).cpu()))
    present = torch.unique(classes)
    if len(head.weight) <= int(present.max()):
        raise DataError(
            f"the head '{head.name}' gives {len(head.weight)} numbers, but a class is called "
            f"{int(present.max())}: collapse needs a head with a row for each class."
        )
    rows = present.to(head.weight.device)
    bias = None if head.bias is None else head.bias[rows]
    return neural_collapse(head.features, classes, head.weight[rows], bias, seed=context.seed)
