"""Cosines between Kronecker factors and exact Fisher blocks, from pairs of gradients."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lossatlas.result import Estimate
from lossatlas.weights.layer_factors import LayerFactors

# Numbers of per-example gradients that are held at once.
_ROOM = 2**26
_FEW = 4
# Pairs of gradients that a cosine comes from, at least.
PAIRS = 48


def groups_that_fit(
    layers: Iterable[LayerFactors], examples: int
) -> Iterator[tuple[list[LayerFactors], int]]:
    """Layers whose gradients of single examples fit in memory together, and how many do."""
    group: list[LayerFactors] = []
    for layer in layers:
        size = sum(known.eigenvalues.numel() for known in [*group, layer])
        if group and 2 * max(examples, PAIRS) * size > _ROOM:
            yield group, _fitting(group, examples)
            group = []
        group.append(layer)
    yield group, _fitting(group, examples)


def _fitting(group: list[LayerFactors], examples: int) -> int:
    size = sum(layer.eigenvalues.numel() for layer in group)
    fitting = _ROOM // (2 * size)
    return examples if fitting >= max(examples, PAIRS) else min(examples, max(_FEW, fitting))


class Pairs:
    """Sums from which cosines between factors and exact Fisher blocks come."""

    def __init__(self, layers: list[LayerFactors], population: int) -> None:
        self._layers, self._population = layers, population
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {la.name: [] for la in layers}
        self._inner: dict[str, list[float]] = {la.name: [] for la in layers}
        self._numbers: list[int] = []

    def add(self, number: int, gradients: list[dict[str, Tensor | None]]) -> None:
        """Take two gradients of one example, at two sampled labels."""
        self._numbers.append(number)
        for layer in self._layers:
            sides = [_matrix(layer, slopes) for slopes in gradients]
            first, second = (matrix.flatten().float() for matrix in sides)
            self._rows[layer.name].append((first, second))
            inner = sum(
                (layer.eigenvalues * layer.to_basis(matrix).square()).sum() for matrix in sides
            )
            self._inner[layer.name].append(float(inner) / 2)

    def estimates(self) -> dict[str, Estimate]:
        """Weight -> its cosine, with a jackknife error over examples."""
        return {layer.name: self._estimate(layer) for layer in self._layers}

    def _estimate(self, layer: LayerFactors) -> Estimate:
        numbers = torch.tensor(self._numbers)
        inner = torch.tensor(self._inner[layer.name], dtype=torch.float64)
        rows = self._rows[layer.name]
        first, second = (torch.stack(side).double() for side in zip(*rows, strict=True))
        squares = (first @ second.T).square().cpu()
        length = float(layer.eigenvalues.norm())

        def cosine(kept: Tensor) -> float:
            chosen = numbers[kept]
            is_own = chosen[:, None] == chosen
            return _cosine(
                inner[kept], squares[kept][:, kept], is_own, self._population, length
            )

        size = len(set(self._numbers))
        value = cosine(torch.ones_like(numbers, dtype=torch.bool))
        if size < _FEW or not math.isfinite(value):
            why = "no slope in this layer" if math.isnan(value) else "fewer than four examples"
            return Estimate(value, samples=size, why_no_error=why)
        left_out = torch.tensor([cosine(numbers != k) for k in range(size)]).double()
        spread = float((left_out - left_out.mean()).square().sum())
        error = math.sqrt((size - 1) / size * spread)
        return Estimate(value, error, samples=size, sample_unit="examples")


def _matrix(layer: LayerFactors, slopes: Mapping[str, Tensor | None]) -> Tensor:
    known = {name: slopes[name] for name in layer.names}
    given = {name: value for name, value in known.items() if value is not None}
    if len(given) < len(known):
        return torch.zeros_like(layer.eigenvalues)
    return layer.matrix_of(given)


def _cosine(
    inner: Tensor, squares: Tensor, is_own: Tensor, population: int, length: float
) -> float:
    """Cosine to the Fisher block of all examples, whose square is a mean over pairs of them."""
    own, others = squares[is_own].mean(), squares[~is_own].mean()
    # A part of the data has more pairs of an example with itself than all of it.
    share = 1 / population
    square = float(own if is_own.all() else share * own + (1 - share) * others)
    if square <= 0 or length == 0:
        return math.nan
    return float(inner.mean()) / (math.sqrt(square) * length)
