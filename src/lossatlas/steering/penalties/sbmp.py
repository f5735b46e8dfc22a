"""SBMP: predictions that stay where they are under a random flip of every embedding."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.errors import ArgumentError
from lossatlas.guard import patched
from lossatlas.objective.modes import norm_layers
from lossatlas.objective.user_code import wrap_errors
from lossatlas.steering.penalties.terms import check_weight


def sbmp_penalty(
    clean_logits: Tensor,
    model_fn: Callable[[Tensor], Tensor],
    embeddings: Tensor,
    alpha: float = 5.0,
    symmetric_kl: bool = True,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    model: nn.Module | None = None,
) -> Tensor:
    """The mean KL divergence between predictions at the embeddings and at random signs away.

    Each example moves by a vector of signs scaled to the length `alpha`, whatever the layout.
    Neither side of a divergence that stands as the target carries a gradient.

    Args:
        clean_logits: predictions at `embeddings`, shape (batch, ..., classes).
        model_fn: embeddings -> logits; called once more.
        embeddings: shape (batch, ...), with gradient.
        alpha: Euclidean length of the move of each example, >= 0. Default 5.
        symmetric_kl: average both directions. Default True.
        mask: bool, shaped like `clean_logits` without the classes: False leaves a position
            out. The embeddings at such positions stay where they are where the shape of the
            mask leads theirs.
        generator: where the signs are drawn from; the global one by default.
        model: its BatchNorm layers do not take the noisy batch into their statistics.

    Returns:
        A scalar >= 0: the mean over predictions (tokens), not the sum over positions.

    Raises:
        ArgumentError: shapes that do not fit, or a negative `alpha`.

    Source: Topological Loss Engineering, doi:10.5281/zenodo.20497841.

    Examples:
        >>> inputs = torch.ones(2, 3)
        >>> sbmp_penalty(inputs, lambda x: x, inputs, alpha=0.0).item()
        0.0
    """
    check_weight("alpha", alpha)
    if embeddings.ndim < 2 or not embeddings.is_floating_point():
        raise ArgumentError(
            "`embeddings` must be floating numbers of shape (batch, ...); got "
            f"{embeddings.dtype} of shape {tuple(embeddings.shape)}."
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != clean_logits.shape[:-1]):
        raise ArgumentError(
            f"`mask` must be bool of shape {tuple(clean_logits.shape[:-1])}; got {mask.dtype} "
            f"of shape {tuple(mask.shape)}."
        )
    moved = embeddings + _signs(embeddings, alpha, mask, generator)
    failing = wrap_errors("`model_fn`", "check that it takes `embeddings`.", ArgumentError)
    with _statistics_kept(model), failing:
        noisy_logits = model_fn(moved)
    shape = getattr(noisy_logits, "shape", None)
    if shape != clean_logits.shape:
        given = type(noisy_logits).__name__ if shape is None else tuple(shape)
        raise ArgumentError(
            "`model_fn` must give logits shaped like `clean_logits`, "
            f"{tuple(clean_logits.shape)}; got {given}."
        )
    clean, noisy = (_log_p(logits) for logits in (clean_logits, noisy_logits))
    values = _divergence(clean.detach(), noisy)
    if symmetric_kl:
        values = 0.5 * (values + _divergence(noisy.detach(), clean))
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)


class SBMPLoss(nn.Module):
    """`weight` times `sbmp_penalty`.

    Args:
        weight: of the penalty, >= 0. Default 1.
        alpha: length of the move. Default 5.
        symmetric_kl: average both directions. Default True.

    Raises:
        ArgumentError: a negative number.

    Examples:
        >>> inputs, drawn = torch.ones(2, 3), torch.Generator().manual_seed(0)
        >>> bool(SBMPLoss(0.5, alpha=1.0)(inputs, lambda x: x, inputs, generator=drawn) > 0)
        True
    """

    def __init__(
        self, weight: float = 1.0, alpha: float = 5.0, symmetric_kl: bool = True
    ) -> None:
        super().__init__()
        self.weight, self.alpha = check_weight("weight", weight), check_weight("alpha", alpha)
        self.symmetric_kl = symmetric_kl

    def forward(
        self,
        clean_logits: Tensor,
        model_fn: Callable[[Tensor], Tensor],
        embeddings: Tensor,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """The weighted penalty; arguments as in `sbmp_penalty`.

        Args:
            clean_logits: shape (batch, ..., classes).
            model_fn: embeddings -> logits.
            embeddings: shape (batch, ...).
            mask: positions that count.
            generator: where the signs are drawn from.
            model: its BatchNorm statistics are kept.

        Returns:
            A scalar.
        """
        return self.weight * sbmp_penalty(
            clean_logits,
            model_fn,
            embeddings,
            self.alpha,
            self.symmetric_kl,
            mask=mask,
            generator=generator,
            model=model,
        )


def _signs(
    embeddings: Tensor, alpha: float, mask: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    like = embeddings.detach()
    device = like.device if generator is None else generator.device
    bits = torch.randint(0, 2, like.shape, generator=generator, device=device)
    signs = bits.to(like).mul_(2).sub_(1)
    if mask is None or mask.shape != like.shape[: mask.ndim]:
        return signs * (alpha / math.sqrt(max(math.prod(like.shape[1:]), 1)))
    spread = mask.reshape(*mask.shape, *(1,) * (like.ndim - mask.ndim)).expand_as(like)
    entries = spread.flatten(1).sum(1).clamp_min(1).to(like.dtype)
    scale = (alpha / entries.sqrt()).reshape(-1, *(1,) * (like.ndim - 1))
    return signs * spread * scale


@contextmanager
def _statistics_kept(model: nn.Module | None) -> Iterator[None]:
    layers = [] if model is None else [n for n in norm_layers(model) if n.training]
    with patched(*((layer, "track_running_stats", False) for layer in layers)):
        yield


def _log_p(logits: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(-1)


def _divergence(target: Tensor, other: Tensor) -> Tensor:
    return F.kl_div(other, target, reduction="none", log_target=True).sum(-1)
