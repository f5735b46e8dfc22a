"""Initialization schemes by name: how the weights of one layer are drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossatlas.errors import ModelError

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Layer:
    """A layer whose weights a scheme can draw.

    Attributes:
        name: of the weight parameter, as in "conv1.weight".
        shape: of the weight.
        fan_in: weights that meet in one output, receptive field and groups counted.
        fan_out: weights that leave one input.
        rows: outputs; as a matrix the weight has shape (rows, fan_in), also where it is stored
            the other way round.
        transposed: whether it is (a transposed convolution).
    """

    name: str
    shape: torch.Size
    fan_in: int
    fan_out: int
    rows: int
    transposed: bool = False


def find_layers(model: nn.Module) -> tuple[Layer, ...]:
    """The dense layers, convolutions and attention projections of a network."""
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    layers = [
        layer
        for prefix, module in model.named_modules()
        for layer in _layers_of(f"{prefix}." if prefix else "", module)
        if layer.name in trained
    ]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no supported layers (dense, convolution, attention) "
            'to initialize; give another model, or the scheme "own".'
        )
    return tuple(layers)


def _layers_of(prefix: str, module: nn.Module) -> list[Layer]:
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        rows, columns = module.in_proj_weight.shape
        # Queries, keys and values are three layers in one tensor.
        shape = module.in_proj_weight.shape
        return [Layer(f"{prefix}in_proj_weight", shape, columns, rows // 3, rows)]
    if not isinstance(module, (*_PLAIN, *_TRANSPOSED)):
        return []
    weight, transposed = module.weight, isinstance(module, _TRANSPOSED)
    field = weight[0, 0].numel()
    groups = getattr(module, "groups", 1)
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    inputs = weight.shape[0] if transposed else weight.shape[1] * groups
    fans = (inputs // groups * field, outputs // groups * field)
    return [Layer(f"{prefix}weight", weight.shape, *fans, outputs, transposed)]


Draw = Callable[[Layer, torch.Generator], Tensor]


def _gaussian(deviation: Callable[[Layer], float]) -> Draw:
    def draw(layer: Layer, generator: torch.Generator) -> Tensor:
        return torch.randn(layer.shape, generator=generator) * deviation(layer)

    return draw


def _even(deviation: Callable[[Layer], float]) -> Draw:
    def draw(layer: Layer, generator: torch.Generator) -> Tensor:
        # An even distribution on [-b, b] has the deviation b / sqrt(3).
        bound = math.sqrt(3) * deviation(layer)
        return (2 * torch.rand(layer.shape, generator=generator) - 1) * bound

    return draw


def _orthogonal(layer: Layer, generator: torch.Generator) -> Tensor:
    rows, columns = layer.rows, layer.shape.numel() // layer.rows
    tall = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    q, r = torch.linalg.qr(tall)
    # The signs make the draw uniform (Haar): the factorization alone prefers some rotations.
    q = q * r.diagonal().sign()
    matrix = q if rows >= columns else q.T
    return _stored(matrix, layer)


def _stored(matrix: Tensor, layer: Layer) -> Tensor:
    if not layer.transposed:
        return matrix.reshape(layer.shape).contiguous()
    inputs, outputs = layer.shape[:2]
    groups = layer.rows // outputs
    parts = matrix.reshape(groups, outputs, inputs // groups, *layer.shape[2:])
    return parts.transpose(1, 2).reshape(layer.shape).contiguous()


def _xavier(layer: Layer) -> float:
    return math.sqrt(2 / (layer.fan_in + layer.fan_out))


def _kaiming(layer: Layer) -> float:
    return math.sqrt(2 / layer.fan_in)


def _lecun(layer: Layer) -> float:
    return math.sqrt(1 / layer.fan_in)


def _tenth(_: Layer) -> float:
    return 0.1


# "lsuv" starts from orthogonal weights; the data then set the length of each layer.
SCHEMES: dict[str, Draw] = {
    "xavier_normal": _gaussian(_xavier),
    "xavier_uniform": _even(_xavier),
    "kaiming_normal": _gaussian(_kaiming),
    "kaiming_uniform": _even(_kaiming),
    "orthogonal": _orthogonal,
    "lsuv": _orthogonal,
    "normal": _gaussian(_tenth),
    "uniform": _even(_lecun),
}
OWN = "own"
INTERPOLATION = "interpolation"
