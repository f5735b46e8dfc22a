"""BatchNorm folded into the convolution before it, for a whole plane at once.

In eval mode BatchNorm is a fixed affine map of each channel, y = s (x - m) + t with
s = gamma / sqrt(var + eps), so conv and norm together are one convolution with weights s W and
bias s (c - m) + t. Along a plane W, c, t (and gamma, if it moves) are affine in the
coordinates; their products are polynomials of degree two, whose coefficients are folded once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import cast

import torch
from torch import Tensor, nn

from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Fold:
    """A convolution whose output goes directly into a BatchNorm layer."""

    conv: str
    norm: str


def find_folds(objective: Objective, batch: Batch) -> list[Fold]:
    """The pairs of convolution and BatchNorm that can be one convolution."""
    outputs: dict[str, list[Tensor]] = {}
    inputs: dict[str, list[Tensor]] = {}

    def watch(name: str, seen: dict[str, list[Tensor]], *, output: bool) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            seen.setdefault(name, []).append(result if output else args[0])

        return hook

    handles = []
    for name, module in objective.model.named_modules():
        if type(module) in _CONVS and module.padding_mode == "zeros":
            handles.append(module.register_forward_hook(watch(name, outputs, output=True)))
        elif type(module) in _NORMS and module.track_running_stats:
            handles.append(module.register_forward_hook(watch(name, inputs, output=False)))
    try:
        objective.swapped({}, lambda: objective.batch_loss(batch))
    finally:
        for handle in handles:
            handle.remove()
    return [
        Fold(conv, norm)
        for norm, values in inputs.items()
        for conv, results in outputs.items()
        if len(values) == 1 and len(results) == 1 and values[0] is results[0]
    ]


def monomials(coordinates: Sequence[float], degree: int) -> list[float]:
    """All products of at most `degree` coordinates, without the constant."""
    products = [float(c) for c in coordinates]
    if degree == 2:
        products += [float(a * b) for a, b in combinations_with_replacement(coordinates, 2)]
    return products


class FoldedPlane:
    """The coefficients of folded weights, as an origin and one direction per monomial.

    Args:
        model: gives running statistics and what the plane does not move.
        folds: the pairs to fold.
        corners: the origin and the directions of the plane.

    Attributes:
        degree: 1, or 2 where a norm scale moves.
        origin: name -> tensor; folded layers appear as "conv.weight" and "conv.bias".
        directions: one mapping for each of `monomials(coordinates, degree)`.
    """

    def __init__(self, model: nn.Module, folds: list[Fold], corners: list[Params]) -> None:
        self._corners = corners
        gammas = [f"{fold.norm}.weight" for fold in folds]
        self.degree = 2 if _any_moves(corners[1:], gammas) else 1
        layers = {
            f"{fold.conv}.{part}": value
            for fold in folds
            for part, value in self._fold(model, fold).items()
        }
        replaced = {
            f"{owner}.{part}"
            for fold in folds
            for owner in (fold.conv, fold.norm)
            for part in ("weight", "bias")
        }
        kept = {name: value for name, value in corners[0].items() if name not in replaced}
        count = 1 + len(monomials([0.0] * (len(corners) - 1), self.degree))
        tables = [self._column(index, layers, kept) for index in range(count)]
        self.origin, self.directions = tables[0], tables[1:]

    def _column(self, index: int, layers: dict[str, list[Tensor]], kept: Params) -> Params:
        linear = index < len(self._corners)
        rest = {
            name: self._corners[index][name] if linear else torch.zeros_like(value)
            for name, value in kept.items()
        }
        return {name: values[index] for name, values in layers.items()} | rest

    def _fold(self, model: nn.Module, fold: Fold) -> dict[str, list[Tensor]]:
        conv = cast(nn.Conv2d, model.get_submodule(fold.conv))
        norm = cast(nn.BatchNorm2d, model.get_submodule(fold.norm))
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        inverse = torch.rsqrt(variance + norm.eps)
        weight = self._affine(f"{fold.conv}.weight", conv.weight)
        center = self._affine(f"{fold.conv}.bias", conv.bias, without=torch.zeros_like(mean))
        center = [center[0] - mean, *center[1:]]
        gamma = self._affine(f"{fold.norm}.weight", norm.weight, without=torch.ones_like(mean))
        shift = self._affine(f"{fold.norm}.bias", norm.bias, without=torch.zeros_like(mean))
        scale = [value * inverse for value in gamma]
        wide = [value.reshape(-1, *[1] * (conv.weight.ndim - 1)) for value in scale]
        bias = self._product(scale, center)
        bias = [value + (shift[k] if k < len(shift) else 0.0) for k, value in enumerate(bias)]
        return {"weight": self._product(wide, weight), "bias": bias}

    def _affine(
        self, name: str, own: Tensor | None, without: Tensor | None = None
    ) -> list[Tensor]:
        # Constant and linear coefficients of one tensor along the plane.
        if own is not None and name in self._corners[0]:
            return [corner[name] for corner in self._corners]
        constant = cast(Tensor, without) if own is None else own.detach()
        return [constant] + [torch.zeros_like(constant)] * (len(self._corners) - 1)

    def _product(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        # Coefficients of the product of two affine functions, in the order of `monomials`.
        linear = [a[0] * b[k] + a[k] * b[0] for k in range(1, len(a))]
        constant = [a[0] * b[0]]
        if self.degree == 1:
            return constant + linear
        pairs = combinations_with_replacement(range(1, len(a)), 2)
        return (
            constant
            + linear
            + [a[i] * b[j] + a[j] * b[i] if i != j else a[i] * b[i] for i, j in pairs]
        )


def _any_moves(directions: list[Params], names: list[str]) -> bool:
    return any(bool(d[name].any()) for d in directions for name in names if name in d)
