"""TRAM: an ascent whose radius is how far the predictions have moved, with no rho to tune."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.checks import check_positive
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_weight, paired
from lossatlas.steering.shards import local, summed


def tram_radius(logits: Tensor, reference: Tensor, maximum: float = 1.0) -> float:
    """The mean KL divergence of the predictions from earlier ones, as a radius.

    Args:
        logits: now, shape (..., classes).
        reference: of the pre-trained or the previous weights, or of noisy embeddings, on the
            same batch with the same dropout; the same shape.
        maximum: the largest radius. Default 1.

    Returns:
        A number in [0, maximum]; 0 where nothing moved (a plain step).

    Raises:
        ArgumentError: other shapes, or a maximum not above zero.

    Source: Sherborne et al., ICLR 2024, eq. 5-7, arXiv:2310.03646; the mean over predictions
        as in the paper (the released code divides by classes and batch again).

    Examples:
        >>> round(tram_radius(torch.zeros(4, 2), torch.eye(4, 2)), 3)
        0.055
    """
    check_positive("maximum", maximum)
    if logits.shape != reference.shape:
        raise ArgumentError(
            f"`reference` must be shaped like `logits`, {tuple(logits.shape)}; got "
            f"{tuple(reference.shape)}."
        )
    with torch.no_grad():
        now, then = (t.float().log_softmax(-1) for t in (logits, reference))
        distance = F.kl_div(now, then, reduction="none", log_target=True).sum(-1).mean()
    return min(max(float(distance), 0.0), float(maximum))


@contextmanager
def ascended(
    params: Iterable[Tensor], radius: float, *, adaptive: bool = True, eta: float = 0.01
) -> Iterator[float]:
    """Move the weights uphill along their gradients for the length of a block.

    After `loss.backward()`, the block computes the gradient at the worst point nearby (clear
    the old one first); on leaving, the weights come back bit for bit.

    Args:
        params: weights with `.grad`; those without stay.
        radius: rho, or `tram_radius(...)`; 0 moves nothing.
        adaptive: scale each weight's move by its size, T = |w| + eta (ASAM); otherwise a plain
            ball (SAM). Default True.
        eta: keeps zero weights moving. Default 0.01.

    Yields:
        The length of the move: |T^-1 e| (adaptive) or |e|.

    Raises:
        ArgumentError: no gradients, or negative numbers.

    Source: Kwon et al., ICML 2021, arXiv:2102.11600; Foret et al., arXiv:2010.01412.

    Examples:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> w.square().sum().backward()
        >>> with ascended([w], radius=0.5, adaptive=False) as length:
        ...     moved = w.detach().clone()
        >>> moved, w.detach(), round(length, 3)
        (tensor([3.3000, 4.4000]), tensor([3., 4.]), 0.5)
    """
    radius, eta = check_weight("radius", radius), check_weight("eta", eta)
    pairs = paired(params, None, "call loss.backward() first")
    with torch.no_grad():
        places = [local(p.detach()) for p, _ in pairs]
        kept = [p.clone() for p in places]
        scales = [p.abs() + eta if adaptive else torch.ones_like(p) for p in places]
        pushed = [s * local(g) for s, (_, g) in zip(scales, pairs, strict=True)]
        square = torch.stack([v.float().square().sum() for v in pushed]).sum()
        length = float(summed(square, [p for p, _ in pairs]).sqrt())
        # An overflow of scaled gradients moves nothing; whoever scales them skips the update.
        factor = radius / length if 0 < length < math.inf else 0.0
        if factor:
            for p, scale, push in zip(places, scales, pushed, strict=True):
                p.addcmul_(scale, push, value=factor)
    try:
        yield factor * length if factor else 0.0
    finally:
        with torch.no_grad():
            for p, before in zip(places, kept, strict=True):
                p.copy_(before)
