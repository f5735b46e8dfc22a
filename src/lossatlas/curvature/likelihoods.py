"""Labels drawn from the model itself: the scores behind the Fisher matrix."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_one_of
from lossatlas.curvature.forms import Form, Vectors
from lossatlas.errors import ArgumentError, LossError
from lossatlas.objective import Objective, Supervised

LIKELIHOODS = ("categorical", "gaussian", "bernoulli")
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


def likelihood_of(objective: Objective, likelihood: str | None) -> str:
    """The distribution of labels whose negative log-likelihood the loss is."""
    if likelihood is not None:
        check_one_of("likelihood", likelihood, LIKELIHOODS)
    criterion = objective.loss.criterion if isinstance(objective.loss, Supervised) else None
    known = _recognized(criterion)
    if known or isinstance(criterion, tuple(_MODULES)):
        _check_unweighted(objective, criterion)
    if likelihood is None:
        _check_mean(criterion, ("mean",))
    elif known:
        _check_mean(criterion, ("mean", "none"))
    if likelihood is None and known is None:
        raise ArgumentError(
            "`likelihood` must be 'categorical', 'gaussian' or 'bernoulli' for this loss: "
            "labels are drawn from it; only cross-entropy, squared error and binary "
            "cross-entropy with logits are recognized by themselves."
        )
    return likelihood or str(known)


def sampled_form(
    outputs: Tensor,
    likelihood: str,
    draws: int,
    generator: torch.Generator,
    mask: Tensor | None,
) -> Form:
    """The map u -> mean over labels and draws of s (s . u), s the score of a sampled label."""
    if likelihood == "categorical" and outputs.ndim < 2:
        raise LossError("a categorical likelihood needs outputs with the classes along axis 1.")
    scores = [_SCORES[likelihood](outputs, generator) for _ in range(draws)]
    if mask is not None:
        scores = [torch.where(mask, score, 0.0) for score in scores]
    categorical = likelihood == "categorical"
    labels = outputs.numel() // outputs.shape[1] if categorical else outputs.numel()
    counted = labels if mask is None else int(mask.sum())

    def apply(vector: Vectors, keep: bool) -> list[Tensor | None]:
        (direction,) = vector
        total = torch.zeros_like(direction)
        for score in scores:
            inner = score * direction
            total += score * (inner.sum(1, keepdim=True) if categorical else inner)
        return [total / max(counted * draws, 1)]

    return apply


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
