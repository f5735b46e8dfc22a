"""Labels drawn from the model itself: the scores behind the Fisher matrix."""

from collections.abc import Callable

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


def likelihood_of(objective: Objective, likelihood: str | None) -> str:
    """The distribution of labels whose negative log-likelihood the loss is.

    Args:
        objective: its loss is looked at where nothing is said.
        likelihood: "categorical", "gaussian", "bernoulli" or None.

    Returns:
        One of the three names.

    Raises:
        UnknownNameError: another name.
        ArgumentError: the loss does not say it by itself, or sums instead of averaging.
    """
    if likelihood is not None:
        check_one_of("likelihood", likelihood, LIKELIHOODS)
        return likelihood
    criterion = objective.loss.criterion if isinstance(objective.loss, Supervised) else None
    if getattr(criterion, "reduction", "mean") != "mean":
        raise ArgumentError(
            f"the criterion has reduction={criterion.reduction!r}; the Fisher matrix of a mean "  # type: ignore[union-attr]
            "loss needs reduction='mean'."
        )
    known = _MODULES.get(type(criterion)) if isinstance(criterion, nn.Module) else None
    known = known or next((name for f, name in _FUNCTIONS.items() if f is criterion), None)
    if known is None:
        raise ArgumentError(
            "`likelihood` must be 'categorical', 'gaussian' or 'bernoulli' for this loss: "
            "labels are drawn from it; only cross-entropy, squared error and binary "
            "cross-entropy with logits are recognised by themselves."
        )
    return known


def sampled_form(
    outputs: Tensor,
    likelihood: str,
    draws: int,
    generator: torch.Generator,
    mask: Tensor | None,
) -> Form:
    """The map u -> mean over labels and draws of s (s . u), s the score of a sampled label.

    Args:
        outputs: logits or predictions, detached; classes along axis 1 for "categorical".
        likelihood: which distribution; squared error is Gaussian with variance 1/2, so that
            the mean loss is the mean negative log-likelihood of single labels.
        draws: labels drawn for each place.
        generator: where they are drawn from, on the device of the outputs.
        mask: which labels count, or None for all.

    Returns:
        A form on lists that hold one tensor like the outputs.

    Raises:
        LossError: categorical outputs without an axis of classes.
    """
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
