"""Directions in weight space: the axes of every landscape picture."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lossatlas.checks import check_one_of, check_same_structure
from lossatlas.linalg.params import Params
from lossatlas.rng import generator
from lossatlas.shards import plain_name

Normalization = Literal["filter", "layer", "none"]
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
# Numbers drawn at once: directions of a large model never exist whole.
_BLOCK = 1 << 20
_NONE: Mapping[str, int] = MappingProxyType({})


def filter_normalized(direction: Params, weights: Params) -> dict[str, Tensor]:
    """Rescale every filter of `direction` to the norm of the same filter in `weights`."""
    check_same_structure(direction=direction, weights=weights)
    return {
        name: _rescaled(d, name, weights, axis=1) if d.ndim > 1 else torch.zeros_like(d)
        for name, d in direction.items()
    }


def layer_normalized(direction: Params, weights: Params) -> dict[str, Tensor]:
    """Rescale every tensor of `direction` to the norm of the same tensor in `weights`."""
    check_same_structure(direction=direction, weights=weights)
    return {
        name: _rescaled(d, name, weights, axis=0) if d.ndim > 1 else torch.zeros_like(d)
        for name, d in direction.items()
    }


def zero_filters(
    weights: Params, *, biases: bool = False, still: Mapping[str, int] = _NONE
) -> tuple[str, ...]:
    """Tensors that hold a zero filter, which has no norm to scale a direction by."""
    found = []
    for name, value in weights.items():
        alive = _as_rows(value).flatten(1).any(dim=1)
        if name in still:
            alive[still[name]] = True
        if (value.ndim > 1 or biases) and not alive.all():
            found.append(name)
    return tuple(found)


class RandomDirection(Mapping[str, Tensor]):
    """A random direction that holds no memory: tensors are drawn when they are asked for.

    Every tensor depends on the seed, the number of the axis and its own name only, so single
    layers can be had in any order. The scale follows the weights as they are when asked.

    Args:
        weights: the point it starts from; kept, not copied.
        seed: any whole number.
        axis: 0, 1 or 2; directions of one seed are independent.
        normalization: "filter" and "layer" as in the functions above, "none" for plain
            standard normal numbers.
        biases: whether tensors with fewer than two axes (biases, norm scales) move too, each
            rescaled as one filter; Li et al. keep them still.
        still: name -> a row that does not move (`padding_idx` of an embedding).

    Raises:
        UnknownNameError: an unknown normalization.
    """

    def __init__(
        self,
        weights: Params,
        seed: int,
        axis: int,
        normalization: Normalization,
        *,
        biases: bool,
        still: Mapping[str, int] = _NONE,
    ) -> None:
        check_one_of("normalization", normalization, NORMALIZATIONS)
        self.weights, self.seed, self.axis = weights, seed, axis
        self.normalization, self.biases = normalization, biases
        self.still = {name: row for name, row in still.items() if name in weights}

    def __getitem__(self, name: str) -> Tensor:
        weight = self.weights[name]
        whole = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        for rows, block in self.blocks(name):
            _as_rows(whole)[rows] = block
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def blocks(self, name: str, only: range | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The tensor piece by piece, so that little of it exists at a time.

        Args:
            name: of the tensor.
            only: rows to draw, where a process holds some of them; places count from the
                first of these.

        Yields:
            Rows, and what they hold.
        """
        weight = self.weights[name]
        if weight.ndim < 2 and not self.biases:
            return
        scale = self._layer_scale(name, weight)
        spare: Callable[[], float] = partial(_typical, name, self.weights)
        if only is not None and scale is None and not _as_rows(weight).flatten(1).any(1).all():
            # Looked up by all processes or by none: weights may have to be gathered for it.
            spare = partial(float, spare())
        for index, rows in enumerate(_row_blocks(weight)):
            kept = rows if only is None else _overlap(rows, only)
            if kept.start >= kept.stop:
                continue
            block = self._normal(name, index, rows, weight)
            block = block[kept.start - rows.start : kept.stop - rows.start]
            if scale is None:
                block = _to_length(block, _as_rows(weight)[kept], spare, axis=1)
            elif scale != 1:
                block = block.mul_(scale)
            first = 0 if only is None else only.start
            yield slice(kept.start - first, kept.stop - first), block

    def _layer_scale(self, name: str, weight: Tensor) -> float | None:
        if self.normalization == "none":
            return 1.0
        if self.normalization == "filter" or weight.ndim < 2:
            return None
        squares: float = sum(
            float(vector_norm(self._normal(name, i, rows, weight).double()) ** 2)
            for i, rows in enumerate(_row_blocks(weight))
        )
        length = float(vector_norm(weight.double()))
        length = length or _typical(name, self.weights) * weight.numel() ** 0.5
        return length / float(squares**0.5)

    def _normal(self, name: str, block: int, rows: slice, weight: Tensor) -> Tensor:
        like = _as_rows(weight)[rows]
        source = generator(self.seed, "direction", self.axis, plain_name(name), block)
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        drawn = torch.randn(like.shape, generator=source, dtype=kind)
        row = self.still.get(name, -1)
        if rows.start <= row < rows.stop:
            drawn[row - rows.start] = 0.0
        return drawn.to(like.device, like.dtype)


def _overlap(rows: slice, only: range) -> slice:
    return slice(max(rows.start, only.start), min(rows.stop, only.stop))


def _rescaled(d: Tensor, name: str, weights: Params, *, axis: int) -> Tensor:
    return _to_length(d, weights[name], partial(_typical, name, weights), axis=axis)


def _to_length(d: Tensor, w: Tensor, spare: Callable[[], float], *, axis: int) -> Tensor:
    axes = tuple(range(axis, w.ndim))
    length, target = (vector_norm(t, dim=axes, keepdim=True) for t in (d, w))
    if not target.all():
        entries = w.numel() // max(1, target.numel())
        target = torch.where(target > 0, target, spare() * entries**0.5)
    # A zero filter of the direction has no orientation to keep; dividing would give nan.
    scaled: Tensor = torch.where(length > 0, d / length, 0.0) * target
    return scaled


def _typical(name: str, weights: Params) -> float:
    # Root mean square of the entries of filters that are not zero, the nearest ones there are.
    prefix = name
    while True:
        inside = [v for k, v in weights.items() if k.startswith(prefix) and v.ndim > 1]
        alive = [rows[rows.any(dim=1)] for v in inside for rows in [v.flatten(1)]]
        entries = sum(v.numel() for v in alive)
        if entries:
            squares = sum(float(vector_norm(v.double()) ** 2) for v in alive)
            return float((squares / entries) ** 0.5)
        if not prefix:
            return 0.0
        prefix = prefix.rstrip(".").rpartition(".")[0]
        prefix += "." if prefix else ""


def _as_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim > 1 else tensor.reshape(1, -1)


def _row_blocks(weight: Tensor) -> Iterator[slice]:
    rows = len(_as_rows(weight))
    step = max(1, _BLOCK * rows // max(1, weight.numel()))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
