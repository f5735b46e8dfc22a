"""Sums with their weights: what a loss returns where examples do not count alike."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import LossError


class Weighted(NamedTuple):
    """The losses of the examples of a batch as sums and weights, one pair an example.

    The value of an objective is `sum(sums) / sum(weights)` over all examples of all batches,
    however they are split into batches. For a language model an example is a sequence: its
    sum is that of the losses of its tokens that count, its weight how many there are. Tokens
    of one sequence are not independent, so the standard error takes the example as its unit:
    with `e_i = (s_i - R w_i) / mean(w)`, R the value, it is `sd(e) / sqrt(n)`, with a larger
    correction than n / (n - 1) where few of the examples carry most of the weight. Intervals
    take Student's t with about n_eff - 1 degrees of freedom, `n_eff = (sum w)^2 / sum w^2`
    (Kish), and allow for the skewness of the e_i.

    Attributes:
        sums: shape (examples,), floating point, in the units of the loss times the weight.
        weights: shape (examples,), at least 0; they must not depend on the parameters.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> def loss(model, batch):
        ...     tokens, labels = batch
        ...     each = F.cross_entropy(model(tokens).mT, labels, reduction="none")
        ...     return la.Weighted(each.sum(1), (labels != -100).sum(1))
        >>> model = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7))
        >>> labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
        >>> objective = la.Objective(model, loss, [(torch.ones(2, 3, dtype=int), labels)])
        >>> objective.evaluate().samples
        2

    Source: Cochran, Sampling Techniques (1977), ch. 6 (the ratio estimator); Kish, Survey
        Sampling (1965), sec. 11.7 (effective number); Bell and McCaffrey, Survey Methodology
        28 (2002) (few and unequal clusters).
    """

    sums: Tensor
    weights: Tensor


# What a loss or a metric gives for one batch: a mean, one number an example, or pairs.
Measured = Tensor | Weighted


def cut_off(measured: Any) -> Any:
    """What a loss gave, without its graph."""
    if isinstance(measured, Weighted):
        return Weighted(*map(cut_off, measured))
    return measured.detach() if isinstance(measured, Tensor) else measured


class Total(NamedTuple):
    """The loss of one batch as a sum and its weight.

    The objective is the sum of all sums by the sum of all weights, and so are its derivatives.

    Attributes:
        sum: a scalar with its graph, float32 or wider.
        weight: what it is divided by: examples, or the sum of their weights.
    """

    sum: Tensor
    weight: float

    @property
    def scale(self) -> float:
        """What `mean` has to be multiplied by in a sum over batches; 1 where nothing counts."""
        return self.weight or 1.0

    @property
    def mean(self) -> Tensor:
        """The mean over the batch: derivatives of it stay within the range of any dtype."""
        return self.sum / self.scale


def total_of(measured: Measured, size: float) -> Total:
    """Sum and weight of what a loss gave for one batch."""
    if isinstance(measured, Weighted):
        return Total(_wide(measured.sums).sum(), float(measured.weights.double().sum()))
    if measured.ndim:
        return Total(_wide(measured).sum(), float(len(measured)))
    return Total(_wide(measured) * size, size)


def batch_mean(measured: Measured) -> Tensor:
    """The mean over one batch of what a loss gave for it."""
    if isinstance(measured, Weighted):
        return total_of(measured, 1.0).mean
    return measured.mean() if measured.ndim else measured


def pairs_of(measured: Measured) -> Weighted:
    """One pair an example from what a loss gave for one batch."""
    if isinstance(measured, Weighted):
        return measured
    return Weighted(measured, torch.ones_like(measured))


def influence(pairs: Weighted) -> Tensor:
    """Numbers whose plain mean is the value and whose scatter is that of the value."""
    value, typical = pairs.sums.sum() / pairs.weights.sum(), pairs.weights.mean()
    return value + (pairs.sums - value * pairs.weights) / typical


def check_pairs(pairs: Weighted) -> Weighted:
    """Require one sum and one weight an example."""
    sums, weights = pairs
    wanted = "la.Weighted must hold two tensors of shape (examples,), sums and weights"
    if not isinstance(sums, Tensor) or not isinstance(weights, Tensor):
        kind = type(weights if isinstance(sums, Tensor) else sums).__name__
        raise LossError(f"{wanted}; got {kind}.")
    if sums.ndim != 1 or sums.shape != weights.shape:
        raise LossError(f"{wanted}; got shapes {tuple(sums.shape)}, {tuple(weights.shape)}.")
    if not sums.is_floating_point() or weights.is_complex():
        raise LossError(f"{wanted}, real; got {sums.dtype} and {weights.dtype}.")
    if weights.requires_grad:
        raise LossError(
            "the weights of la.Weighted must not depend on the parameters, but they carry a "
            "gradient: compute them from the batch, or detach them."
        )
    wide = torch.float32 if weights.device.type == "mps" else torch.float64
    return Weighted(sums, weights.to(wide))


def check_weights(weights: NDArray[np.float64]) -> None:
    """Require weights that are finite and not negative."""
    odd = ~(np.isfinite(weights) & (weights >= 0))
    if odd.any():
        raise LossError(
            "the weights of la.Weighted must be finite and at least 0; got "
            f"{weights[odd][0]:g} for an example."
        )


def _wide(value: Tensor) -> Tensor:
    # A sum of many halves overflows, and loses what a mean keeps.
    return value.to(torch.promote_types(value.dtype, torch.float32))
