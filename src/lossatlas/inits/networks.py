"""Networks that read the parameters of networks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.errors import ModelError
from lossatlas.inits.candidates import Candidate, Initializer
from lossatlas.inits.schemes import Layer

Array = NDArray[np.float64]


class FlatNetwork(nn.Module):
    """The published predictor: a residual network on standardized flat parameters.

    LayerNorm, one dense layer with GELU, then blocks of falling width (LayerNorm, GELU,
    dropout 0.1, a dense skip), LayerNorm, 64, 1. It does not know that hidden units can be
    exchanged.

    Args:
        mean: of each parameter in the training rows, shape (parameters,).
        deviation: likewise.
        widths: of the blocks; published 2048, 1024, 512, 256, 128.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, widths: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.start = nn.Sequential(
            nn.LayerNorm(len(mean)), nn.Linear(len(mean), widths[0]), nn.GELU()
        )
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        last = widths[-1]
        self.end = nn.Sequential(
            nn.LayerNorm(last), nn.Linear(last, 64), nn.GELU(), nn.Linear(64, 1)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Predict."""
        scaled = (rows - self.mean) / self.deviation
        predicted: Tensor = self.end(self.blocks(self.start(scaled)))
        return predicted[:, 0]


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(before), nn.Linear(before, after)
        self.drop, self.skip = nn.Dropout(0.1), nn.Linear(before, after)

    def forward(self, value: Tensor) -> Tensor:
        through = self.drop(F.gelu(self.dense(self.norm(value))))
        both: Tensor = through + self.skip(value)
        return both


class EquivariantNetwork(nn.Module):
    """A predictor for which exchanged hidden units are the same network.

    Each unit is described by a few numbers made of the descriptions of the units before it,
    summed with their weights and with the squares of their weights: what passes messages along
    the network that is read. Inputs and outputs keep their order.

    Args:
        layers: of the network that is read, each reading the one before.
        like: name -> a tensor of the shape of each parameter.
        deviations: name -> standard deviation of a parameter's entries in the training rows.
        width: numbers that describe a unit.

    Raises:
        ModelError: the layers do not follow one another.

    Source: in the spirit of graph metanetworks, Lim et al., ICLR 2024, arXiv:2312.04501.
    """

    scales: Tensor

    def __init__(
        self,
        layers: Sequence[Layer],
        like: Mapping[str, Tensor],
        deviations: Sequence[float],
        width: int = 16,
    ) -> None:
        super().__init__()
        self.names = list(like)
        self.shapes = [value.shape for value in like.values()]
        self.layers = layers
        self.register_buffer("scales", torch.tensor(deviations))
        units = _units(layers)
        self.first = nn.Parameter(torch.randn(units[0], width))
        self.gates = nn.ParameterList(
            torch.randn(2, layer.shape.numel() // layer.rows // before, width)
            for layer, before in zip(layers, units, strict=True)
        )
        self.mixers = nn.ModuleList(nn.Linear(2 * width + 1, width) for _ in layers)
        self.end = nn.Sequential(
            nn.Linear(layers[-1].rows * width, 64), nn.GELU(), nn.Linear(64, 1)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Predict."""
        parts = pieces(rows, self.shapes)
        named = {
            name: part / scale
            for name, part, scale in zip(self.names, parts, self.scales, strict=True)
        }
        units = self.first.expand(len(rows), *self.first.shape)
        for layer, gates, mixer in zip(self.layers, self.gates, self.mixers, strict=True):
            units = self._layer(layer, gates, mixer, units, named)
        predicted: Tensor = self.end(units.flatten(1))
        return predicted[:, 0]

    @staticmethod
    def _layer(
        layer: Layer,
        gates: Tensor,
        mixer: nn.Module,
        units: Tensor,
        named: Mapping[str, Tensor],
    ) -> Tensor:
        weight = named[layer.name]
        flat = weight.reshape(len(weight), layer.rows, -1)
        heard = []
        for gate, values in zip(gates, (flat, flat**2), strict=True):
            spoken = (units.unsqueeze(2) * gate).flatten(1, 2)
            heard.append(torch.bmm(values, spoken) / spoken.shape[1] ** 0.5)
        bias = named.get(layer.name.removesuffix("weight") + "bias")
        offset = units.new_zeros(len(units), layer.rows) if bias is None else bias
        mixed: Tensor = F.gelu(mixer(torch.cat([*heard, offset.unsqueeze(2)], dim=2)))
        return mixed


def _units(layers: Sequence[Layer]) -> list[int]:
    # How many units each layer reads: those that the layer before it gives.
    first = layers[0].shape[1]
    units = [first, *(layer.rows for layer in layers[:-1])]
    for layer, before in zip(layers, units, strict=True):
        if layer.transposed or (layer.shape.numel() // layer.rows) % before:
            raise ModelError(
                f"the equivariant surrogate reads chains of layers, but '{layer.name}' does "
                "not read the layer before it; leave it out, as in "
                "--set surrogate.kinds=[flat,statistics]."
            )
    return units


_BUDGET = 1 << 30
_CHUNK = 512


class Rows:
    """Flat parameters by index.

    Args:
        initializer: makes the parameters.
        candidates: the recipes.
        budget: bytes that the parameters may take; beyond it they are drawn each time anew.
    """

    def __init__(
        self, initializer: Initializer, candidates: Sequence[Candidate], budget: int = _BUDGET
    ) -> None:
        self.initializer, self.candidates = initializer, candidates
        self.width = sum(value.numel() for value in initializer.like.values())
        fits = 4 * self.width * len(candidates) <= budget
        self._kept = torch.full((len(candidates), self.width), torch.nan) if fits else None
        self._known = torch.zeros(len(candidates), dtype=torch.bool)

    def __call__(self, indices: Tensor) -> Tensor:
        """The parameters of some recipes."""
        if self._kept is None:
            return self._drawn(indices)
        missing = torch.unique(indices[~self._known[indices]])
        for part in torch.split(missing, _CHUNK):
            self._kept[part] = self._drawn(part)
            self._known[part] = True
        return self._kept[indices]

    def _drawn(self, indices: Tensor) -> Tensor:
        chosen = [self.candidates[index] for index in indices.tolist()]
        return self.initializer.rows(chosen).cpu()

    def moments(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every coordinate."""
        total, squares = torch.zeros(2, self.width, dtype=torch.float64)
        for part in torch.split(indices, _CHUNK):
            rows = self(part).double()
            total += rows.sum(0)
            squares += (rows**2).sum(0)
        mean = total / len(indices)
        deviation = (squares / len(indices) - mean**2).clamp(min=0).sqrt()
        return mean.float(), torch.where(deviation > 0, deviation, 1.0).float()


def pieces(rows: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Flat rows cut into tensors."""
    parts = torch.split(rows, [shape.numel() for shape in shapes], dim=1)
    return [part.reshape(len(rows), *shape) for part, shape in zip(parts, shapes, strict=True)]


_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def layer_statistics(rows: Tensor, shapes: Sequence[torch.Size]) -> Array:
    """Mean, deviation and quantiles of every tensor, and the logarithms of their lengths."""
    shares = torch.tensor(_SHARES)
    columns = []
    for part in pieces(rows, shapes):
        flat = part.reshape(len(rows), -1)
        middle, spread = flat.mean(1), flat.std(1, correction=0)
        length = flat.norm(dim=1).clamp(min=1e-30).log()
        columns += [middle, spread, length, *torch.quantile(flat, shares, dim=1)]
    return torch.stack(columns, dim=1).double().numpy()
