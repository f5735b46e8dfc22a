"""Networks of any width under a parametrization: how weights start and how fast they learn."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least, check_one_of, check_real
from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.training import Dataset

# (width, data, seed) -> (a network, what the base rate is multiplied with at this width).
Family = Callable[[int, Dataset, int], tuple[nn.Module, float]]
# (inputs of the layer, is it the last one) -> (factor of its products, spread of its weights).
Scaling = Callable[[int, bool], tuple[float, float]]


class ScaledLinear(nn.Module):
    """A dense layer without bias whose products are multiplied by a fixed number.

    Args:
        weight: shape (outputs, inputs).
        factor: what products are multiplied with.
    """

    def __init__(self, weight: Tensor, factor: float) -> None:
        super().__init__()
        check_real({"weight": weight})
        self.weight = nn.Parameter(weight)
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs.

        Args:
            inputs: shape (..., inputs).

        Returns:
            Shape (..., outputs).
        """
        return self.factor * F.linear(inputs, self.weight)


def scaled_mlp(
    width: int, data: Dataset, seed: int, *, scaling: Scaling, hidden: int = 2
) -> nn.Sequential:
    """A ReLU network without biases.

    Args:
        width: of its hidden layers.
        data: its inputs and outputs are theirs.
        seed: what weights are drawn from.
        scaling: factor and spread of each layer.
        hidden: hidden layers.

    Returns:
        The network. Its first weights are those of a narrower one with more columns and rows,
        scaled: nothing else is shared between widths.
    """
    check_at_least("width", width, 1)
    check_at_least("hidden", hidden, 1)
    sizes = (data.inputs[0].numel(), *[width] * hidden, data.outputs)
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (before, after) in enumerate(pairwise(sizes)):
        factor, spread = scaling(before, number == hidden)
        drawn = generator(seed, "width", width, number)
        layers += [
            ScaledLinear(spread * torch.randn(after, before, generator=drawn), factor),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers[:-1])


def _mup(inputs: int, last: bool) -> tuple[float, float]:
    return (1 / inputs if last else 1 / math.sqrt(inputs)), 1.0


def _ntk(inputs: int, last: bool) -> tuple[float, float]:
    return 1 / math.sqrt(inputs), 1.0


def _standard(inputs: int, last: bool) -> tuple[float, float]:
    return 1.0, 1 / math.sqrt(inputs)


def _member(
    width: int, data: Dataset, seed: int, *, scaling: Scaling, power: int
) -> tuple[nn.Module, float]:
    return scaled_mlp(width, data, seed, scaling=scaling), float(width**power)


# "mup": maximal update, outputs divided by the root of the width once more, and the rate of
#   gradient descent multiplied with the width.
# "ntk": weights of unit spread, products divided by the root of the inputs, one rate.
# "standard": weights of spread 1 / sqrt(inputs), one rate.
FAMILIES: Mapping[str, Family] = {
    "mup": partial(_member, scaling=_mup, power=1),
    "ntk": partial(_member, scaling=_ntk, power=0),
    "standard": partial(_member, scaling=_standard, power=0),
}


def families_of(asked: "tuple[str, ...] | Mapping[str, Family]") -> dict[str, Family]:
    """The families of some names."""
    if not asked:
        raise ArgumentError("`families` is empty; name at least one, such as 'mup'.")
    if not isinstance(asked, Mapping):
        for name in asked:
            check_one_of("families", name, FAMILIES)
        return {name: FAMILIES[name] for name in asked}
    for name, family in asked.items():
        if not callable(family):
            kind = type(family).__name__
            raise ArgumentError(
                f"`families`: '{name}' must be a function (width, data, seed) -> (model, "
                f"factor of the rate); got {kind}."
            )
    return dict(asked)
