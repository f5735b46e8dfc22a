"""Curvature matrices as operators: Hessian, Gauss-Newton, Fisher, empirical Fisher."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.forms import (
    Form,
    Leaves,
    Vectors,
    gauss_newton_form,
    hessian_form,
    model_outputs,
    read_outputs,
    sandwich_form,
)
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.errors import ArgumentError, LossError
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective, Supervised, Total
from lossatlas.objective.weighted import pairs_of, total_of
from lossatlas.rng import generator

Likelihood = Literal["categorical", "gaussian", "bernoulli"]
LIKELIHOODS: tuple[str, ...] = get_args(Likelihood)
_FUNCTIONS = {
    F.cross_entropy: "categorical",
    F.mse_loss: "gaussian",
    F.binary_cross_entropy_with_logits: "bernoulli",
}
_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "categorical",
    nn.MSELoss: "gaussian",
    nn.BCEWithLogitsLoss: "bernoulli",
}
_SETTINGS = ("reduction", "weight", "pos_weight", "ignore_index")
MatrixKind = Literal["hessian", "gauss_newton", "fisher", "empirical_fisher"]
KINDS: tuple[str, ...] = get_args(MatrixKind)


def hessian(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
) -> CurvatureOperator:
    """The Hessian of the objective: second derivatives of the mean loss.

    With mode="train" it is that of the loss with the batches' own statistics; with
    mode="recalibrated" statistics are estimated at the point and then held.

    Args:
        objective: model, loss, batches.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `CurvatureOperator`.

    Returns:
        The matrix as a function of a vector.

    Raises:
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import hessian
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, loss, [batch])
        >>> hessian(objective) @ {"weight": torch.ones(1, 2)}
        {'weight': tensor([[4., 1.]])}

    Source: Pearlmutter, Neural Computation 6 (1994).
    """
    check_objective(objective, params)
    build = partial(hessian_form, objective)
    return CurvatureOperator(objective, build, params=params, names=names, cache=cache)


def gauss_newton(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
) -> CurvatureOperator:
    """The generalized Gauss-Newton matrix J^T H J, positive semi-definite for convex criteria.

    J is the Jacobian of everything the model returns, H the Hessian of the loss in it.

    Args:
        objective: its loss must be a function of what the model returns.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `CurvatureOperator`.

    Returns:
        The matrix as a function of a vector; its first product raises LossError where the
        model computes the loss itself or the loss is linear in the outputs.

    Raises:
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import gauss_newton
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> matrix = gauss_newton(la.Objective(model, loss, [batch]))
        >>> (matrix @ {"weight": torch.ones(1, 2)})["weight"].shape
        torch.Size([1, 2])

    Source: Schraudolph, Neural Computation 14 (2002).
    """
    check_objective(objective, params)
    build = partial(gauss_newton_form, objective)
    return CurvatureOperator(
        objective, build, params=params, names=names, cache=cache, kind="gauss_newton"
    )


def fisher(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
    likelihood: Likelihood | None = None,
    draws: int = 1,
    seed: int = 0,
) -> CurvatureOperator:
    """The Fisher matrix with labels drawn from the model; its mean is the Gauss-Newton matrix.

    Every product uses the same drawn labels. Each label is one term s s^T of the score s;
    targets that cross-entropy ignores are left out. A loss with weights of classes or labels
    is no negative log-likelihood, and is refused.

    Args:
        objective: the model must return one tensor of logits or predictions.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `CurvatureOperator`.
        likelihood: "categorical", "gaussian" (variance 1/2, which makes squared error the
            negative log-likelihood) or "bernoulli"; None reads it off the criterion.
        draws: labels drawn for each example.
        seed: what they are drawn from, with the number of the batch: counted over all
            processes in the order of their ranks where `Objective(group=)` has several.

    Returns:
        The matrix as a function of a vector.

    Raises:
        ArgumentError: the likelihood is not recognized, or `draws` is below 1.
        UnknownNameError: an unknown likelihood, or a name that matches nothing.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import fisher
        >>> model = torch.nn.Linear(2, 3, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> matrix = fisher(la.Objective(model, loss, [batch]))
        >>> (matrix @ {"weight": torch.ones(3, 2)})["weight"].shape
        torch.Size([3, 2])

    Source: Martens, JMLR 21 (2020), sec. 5, arXiv:1412.1193.
    """
    check_objective(objective, params)
    check_at_least("draws", draws, 1)
    kind = likelihood_of(objective, likelihood)

    def build(leaves: Leaves, batch: Batch, index: int) -> tuple[Total, Form]:
        total, outputs = model_outputs(objective, batch)
        if len(outputs) != 1:
            raise LossError(
                "the Fisher matrix needs one tensor of outputs; the model gave "
                f"{len(outputs)}: use gauss_newton, which takes any."
            )
        number = objective.local.batches_before + index
        drawn = generator(seed, "labels", number, device=outputs[0].device)
        mask = counted_labels(objective, batch) if kind == "categorical" else None
        middle = sampled_form(outputs[0].detach(), kind, draws, drawn, mask)
        read = partial(read_outputs, objective, batch)
        return total, sandwich_form(leaves, read, outputs, middle, index, scale=total.scale)

    return CurvatureOperator(
        objective, build, params=params, names=names, cache=cache, kind="fisher"
    )


def empirical_fisher(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
) -> CurvatureOperator:
    """The mean of g g^T over examples, g the gradient of an example's own loss.

    It is neither the Fisher nor the Hessian (Kunstner et al. 2019); its top shows where
    gradients of examples agree. With weights of examples it is their weighted mean: the sum of
    (1 / w_i) s_i' s_i'^T by the sum of w_i, s_i' the gradient of a sum.

    Args:
        objective: its loss must give one number an example.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `CurvatureOperator`.

    Returns:
        The matrix as a function of a vector.

    Raises:
        LossError: the loss gives only means.
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import empirical_fisher
        >>> model = torch.nn.Linear(2, 3, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> matrix = empirical_fisher(la.Objective(model, loss, [batch]))
        >>> (matrix @ {"weight": torch.ones(3, 2)})["weight"].shape
        torch.Size([3, 2])

    Source: Kunstner, Balles, Hennig, NeurIPS 2019, arXiv:1905.12558.
    """
    check_objective(objective, params)
    if objective.unit != "examples":
        raise LossError(
            "the empirical Fisher matrix needs the loss of every example; let `loss` return "
            "one number an example, shape (batch,)."
        )

    def build(leaves: Leaves, batch: Batch, index: int) -> tuple[Total, Form]:
        pairs = pairs_of(objective.batch_loss(batch))
        total, weights = total_of(pairs, 1.0), pairs.weights.to(pairs.sums)
        shares = torch.where(weights > 0, 1 / (weights * total.scale), 0.0)

        def read() -> Vectors:
            return [pairs_of(objective.batch_loss(batch)).sums]

        def middle(given: Vectors, keep: bool) -> list[Tensor | None]:
            return [given[0] * shares]

        return total, sandwich_form(
            leaves, read, [pairs.sums], middle, index, scale=total.scale
        )

    return CurvatureOperator(
        objective, build, params=params, names=names, cache=cache, kind="empirical_fisher"
    )


def counted_labels(objective: Objective, batch: Batch) -> Tensor | None:
    """Which labels of a batch count, shaped like scores; None where all do."""
    if not isinstance(objective.loss, Supervised):
        return None
    targets = batch[1]
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    ignored = getattr(objective.loss.criterion, "ignore_index", -100)
    return (targets != ignored).unsqueeze(1)


def product_of(kind: str, objective: Objective, **options: Any) -> CurvatureOperator:
    """The matrix of a given kind."""
    makers: Mapping[str, Callable[..., CurvatureOperator]] = {
        "hessian": hessian,
        "gauss_newton": gauss_newton,
        "fisher": fisher,
        "empirical_fisher": empirical_fisher,
    }
    return makers[kind](objective, **options)


def likelihood_of(objective: Objective, likelihood: Likelihood | None) -> str:
    """The distribution of labels whose negative log-likelihood the loss is."""
    if likelihood is not None:
        check_one_of("likelihood", likelihood, LIKELIHOODS)
    criterion = objective.loss.criterion if isinstance(objective.loss, Supervised) else None
    recognized = _recognized(criterion)
    if recognized or isinstance(criterion, tuple(_MODULES)):
        _check_unweighted(objective, criterion)
    if likelihood is None:
        _check_mean(criterion, ("mean",))
    elif recognized:
        _check_mean(criterion, ("mean", "none"))
    if likelihood is None and recognized is None:
        raise ArgumentError(
            "`likelihood` must be 'categorical', 'gaussian' or 'bernoulli' for this loss: "
            "labels are drawn from it; only cross-entropy, squared error and binary "
            "cross-entropy with logits are recognized by themselves."
        )
    return likelihood or str(recognized)


def sampled_form(
    outputs: Tensor,
    likelihood: str,
    draws: int,
    generator: torch.Generator,
    mask: Tensor | None,
) -> Form:
    """The map u -> mean over labels and draws of s (s . u), s the score of a sampled label."""
    scores, counted = sampled_scores(outputs, likelihood, draws, generator, mask)
    categorical = likelihood == "categorical"

    def apply(vector: Vectors, keep: bool) -> list[Tensor | None]:
        (direction,) = vector
        total = torch.zeros_like(direction)
        for score in scores:
            inner = score * direction
            total += score * (inner.sum(1, keepdim=True) if categorical else inner)
        return [total / max(counted * draws, 1)]

    return apply


def sampled_scores(
    outputs: Tensor,
    likelihood: str,
    draws: int,
    generator: torch.Generator,
    mask: Tensor | None,
) -> tuple[list[Tensor], int]:
    """Slopes in the outputs of the losses of sampled labels, and how many labels count."""
    if likelihood == "categorical" and outputs.ndim < 2:
        raise LossError("a categorical likelihood needs outputs with the classes along axis 1.")
    scores = [_SCORES[likelihood](outputs, generator) for _ in range(draws)]
    if mask is not None:
        scores = [torch.where(mask, score, 0.0) for score in scores]
    categorical = likelihood == "categorical"
    labels = outputs.numel() // outputs.shape[1] if categorical else outputs.numel()
    return scores, labels if mask is None else int(mask.sum())


def _recognized(criterion: object) -> str | None:
    if isinstance(criterion, nn.Module):
        return _MODULES.get(type(criterion))
    function = criterion.func if isinstance(criterion, partial) else criterion
    return next((name for known, name in _FUNCTIONS.items() if known is function), None)


def _settings(criterion: object) -> Mapping[str, Any]:
    if isinstance(criterion, partial):
        return criterion.keywords
    return {name: getattr(criterion, name, None) for name in _SETTINGS}


def _check_mean(criterion: object, accepted: tuple[str, ...]) -> None:
    reduction = _settings(criterion).get("reduction") or "mean"
    if reduction not in accepted:
        raise ArgumentError(
            f"the criterion has reduction={reduction!r}; the Fisher matrix of a mean "
            "loss needs reduction='mean'."
        )


def _check_unweighted(objective: Objective, criterion: object) -> None:
    settings = _settings(criterion)
    for name in ("weight", "pos_weight"):
        weight = settings.get(name)
        even = weight is None or _is_even(objective, criterion, torch.as_tensor(weight))
        if not even:
            raise ArgumentError(
                f"the criterion has a `{name}`, so the loss is no negative log-likelihood and "
                f"has no Fisher matrix; use curvature='gauss_newton', or leave `{name}` out."
            )
    # What a module ignores is read where labels are counted; a keyword cannot be seen there.
    if isinstance(criterion, partial) and settings.get("ignore_index", -100) != -100:
        raise ArgumentError(
            "the criterion is a partial with `ignore_index`, which the Fisher matrix cannot "
            "follow; use nn.CrossEntropyLoss(ignore_index=...)."
        )


def _is_even(objective: Objective, criterion: object, weight: Tensor) -> bool:
    # Equal weights of classes cancel where the mean divides by them: not with probabilities,
    # and not where examples are averaged afterwards.
    crossed = (
        isinstance(criterion, nn.CrossEntropyLoss) or _recognized(criterion) == LIKELIHOODS[0]
    )
    divided = (_settings(criterion).get("reduction") or "mean") == "mean"
    shares = crossed and objective.first_batch()[1].is_floating_point()
    if not crossed or not divided or shares:
        return bool((weight == 1).all())
    return bool((weight == weight.flatten()[0]).all()) and bool(weight.any())


def _categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    shares = logits.softmax(1).movedim(1, -1)
    flat = shares.reshape(-1, shares.shape[-1])
    drawn = torch.multinomial(flat, 1, generator=generator)
    scores: Tensor = flat - torch.zeros_like(flat).scatter_(1, drawn, 1.0)
    shaped: Tensor = scores.reshape(shares.shape).movedim(-1, 1)
    return shaped


def _gaussian(outputs: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(
        outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device
    )
    score: Tensor = 2.0 * noise * 0.5**0.5
    return score


def _bernoulli(logits: Tensor, generator: torch.Generator) -> Tensor:
    share = logits.sigmoid()
    score: Tensor = share - torch.bernoulli(share, generator=generator)
    return score


_SCORES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "categorical": _categorical,
    "gaussian": _gaussian,
    "bernoulli": _bernoulli,
}
