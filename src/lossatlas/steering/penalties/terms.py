"""What all penalties share: checked weights, checked inputs, gradients that must be there."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lossatlas.checks import check_tensors, is_number
from lossatlas.errors import ArgumentError


def check_weight(argument: str, value: Any) -> float:
    """Require the weight of a penalty."""
    if not is_number(value) or not math.isfinite(value) or value < 0:
        raise ArgumentError(
            f"`{argument}` must be a finite number >= 0, a negative weight would reward what "
            f"the penalty is against; got {value!r}."
        )
    return float(value)


def check_share(argument: str, value: Any) -> float:
    """Require a share, such as the decay of a moving average."""
    if not is_number(value) or not 0 <= value < 1:
        raise ArgumentError(f"`{argument}` must be in [0, 1); got {value!r}.")
    return float(value)


def paired(
    params: Iterable[Tensor], grads: Sequence[Tensor | None] | None, remedy: str
) -> list[tuple[Tensor, Tensor]]:
    """Parameters with what goes with them, those without a gradient left out.

    Args:
        params: weights.
        grads: one tensor a weight; None takes `.grad` of each.
        remedy: the end of the message where there is no gradient at all.

    Returns:
        Pairs (weight, gradient).

    Raises:
        ArgumentError: another number of gradients, another shape, none at all, sparse ones.
    """
    weights = check_tensors("params", params)
    gradients = [p.grad for p in weights] if grads is None else list(grads)
    if len(gradients) != len(weights):
        raise ArgumentError(
            f"`grads` must hold one tensor for each of {len(weights)} parameters; "
            f"got {len(gradients)}."
        )
    pairs = [(p, g) for p, g in zip(weights, gradients, strict=True) if g is not None]
    if not pairs:
        raise ArgumentError(f"no parameter has a gradient; {remedy}.")
    for p, g in pairs:
        if g.shape != p.shape or g.is_sparse:
            form = "sparse" if g.is_sparse else f"of shape {tuple(g.shape)}"
            raise ArgumentError(
                f"`grads` must be dense and shaped like their parameters; got one {form} for a "
                f"parameter of shape {tuple(p.shape)}."
            )
    return pairs
