"""Networks of any width under a parametrization (muP, NTK, standard): weights and rates."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least, check_real
from lossatlas.errors import ArgumentError
from lossatlas.objective.user_code import wrap_errors
from lossatlas.rng import generator
from lossatlas.training.dataset import Dataset

# (width, data, seed) -> (a network, the factor of the base rate at this width).
ScaledFamily = Callable[[int, Dataset, int], tuple[nn.Module, float]]
# (inputs of the layer, is it the last one) -> (factor of its products, spread of its weights).
Scaling = Callable[[int, bool], tuple[float, float]]
_SCALING = "it is called as scaling(inputs, is_last) and must return (factor, spread)."


class ScaledLinear(nn.Module):
    """A dense layer without bias whose output is multiplied by a fixed factor.

    Args:
        weight: shape (outputs, inputs).
        factor: factor of the output.

    Examples:
        >>> ScaledLinear(torch.ones(1, 2), 0.5)(torch.tensor([1.0, 2.0]))
        tensor([1.5000], grad_fn=<MulBackward0>)
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
        width: width of the hidden layers.
        data: data set that determines inputs and outputs.
        seed: random seed of the weights.
        scaling: function that returns factor and spread of each layer.
        hidden: number of hidden layers.

    Returns:
        The network; its weights depend only on seed and width.

    Raises:
        ArgumentError: a size is below 1, or `scaling` does not return a pair of numbers.

    Examples:
        >>> from lossatlas.training import load_dataset
        >>> data = load_dataset("digits", examples=20)
        >>> model = scaled_mlp(8, data, seed=0, scaling=lambda n, last: (n**-0.5, 1.0))
        >>> model(data.inputs).shape
        torch.Size([20, 10])
    """
    check_at_least("width", width, 1)
    check_at_least("hidden", hidden, 1)
    sizes = (data.inputs[0].numel(), *[width] * hidden, data.outputs)
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (before, after) in enumerate(pairwise(sizes)):
        with wrap_errors("`scaling`", _SCALING, ArgumentError):
            factor, spread = map(float, scaling(before, number == hidden))
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


def _scaled(
    width: int, data: Dataset, seed: int, *, scaling: Scaling, power: int
) -> tuple[nn.Module, float]:
    return scaled_mlp(width, data, seed, scaling=scaling), float(width**power)


# "mup": maximal update, outputs divided by the root of the width once more, and the rate of
#   gradient descent multiplied with the width.
# "ntk": weights of unit spread, products divided by the root of the inputs, one rate.
# "standard": weights of spread 1 / sqrt(inputs), one rate.
SCALED_FAMILIES: Mapping[str, ScaledFamily] = {
    "mup": partial(_scaled, scaling=_mup, power=1),
    "ntk": partial(_scaled, scaling=_ntk, power=0),
    "standard": partial(_scaled, scaling=_standard, power=0),
}
