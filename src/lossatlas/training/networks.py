"""Small networks for images and vectors."""

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


def mlp(*hidden: int, features: int, outputs: int, activation: str = "relu") -> nn.Sequential:
    """Dense layers with an activation between them."""
    check_one_of("activation", activation, ACTIVATIONS)
    widths = (features, *(hidden or (64,)), outputs)
    for width in widths:
        check_at_least("width", width, 1)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"fc{number}"] = nn.Linear(before, after)
        if number < len(widths) - 1:
            layers[f"act{number}"] = ACTIVATIONS[activation]()
    return nn.Sequential(layers)


def cnn(
    *widths: int, channels: int, height: int, width: int, outputs: int, hidden: int = 64
) -> nn.Sequential:
    """Stages of convolution, BatchNorm, ReLU and pooling, then two dense layers."""
    stages = widths or (16, 32)
    for size in (*stages, channels, outputs, hidden):
        check_at_least("width", size, 1)
    rows, columns = (side >> len(stages) for side in (height, width))
    if not rows or not columns:
        raise ArgumentError(
            f"`cnn` with {len(stages)} stages needs pictures of at least {2 ** len(stages)} "
            f"pixels per side; got {height}x{width}: use fewer widths, as in 'cnn(16)'."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(pairwise((channels, *stages)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1)
        layers[f"bn{number}"] = nn.BatchNorm2d(after)
        layers[f"act{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(stages[-1] * rows * columns, hidden)
    layers["act"] = nn.ReLU()
    layers["fc2"] = nn.Linear(hidden, outputs)
    return nn.Sequential(layers)
