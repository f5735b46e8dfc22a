"""Directions in weight space: the axes of landscape maps."""

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
# A factor for a whole tensor, or the length that each of its filters shall have.
Scale = Tensor | float


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
    """Tensors with a zero filter, which has no norm to scale a direction by."""
    names = []
    for name, value in weights.items():
        alive = _as_rows(value).flatten(1).any(dim=1)
        if name in still:
            alive[still[name]] = True
        if (value.ndim > 1 or biases) and not alive.all():
            names.append(name)
    return tuple(names)


class RandomDirection(Mapping[str, Tensor]):
    """A random direction whose tensors are drawn on demand, so it needs no memory.

    Every tensor depends only on the seed, the axis number and its name, so layers can be drawn
    individually in any order. The scale follows the current weights.

    Args:
        weights: the origin; referenced, not copied.
        seed: any integer.
        axis: 0, 1 or 2; directions of one seed are independent.
        normalization: "filter" and "layer" as in the functions above, "none" for standard
            normal numbers.
        biases: whether tensors with fewer than two axes (biases, norm scales) move too, each
            rescaled as one filter; Li et al. keep them fixed.
        still: name -> a row that does not move (`padding_idx` of an embedding).

    Raises:
        UnknownNameError: the normalization is unknown.
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

    def scaled_to(self, weights: Params) -> "RandomDirection":
        """The same numbers, scaled to other weights and drawn on their device."""
        return RandomDirection(
            weights,
            self.seed,
            self.axis,
            self.normalization,
            biases=self.biases,
            still=self.still,
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.whole(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def moves(self, name: str) -> bool:
        """Whether a tensor moves at all."""
        return self.biases or self.weights[name].ndim > 1

    def whole(self, name: str, scale: Scale | None = None, out: Tensor | None = None) -> Tensor:
        """One tensor of the direction.

        Args:
            name: of the tensor.
            scale: what `scale` gave for it, where that is known already.
            out: where to draw it: contiguous, and like the weight.

        Returns:
            A tensor like the weight; `out` where that was given and something moves.
        """
        weight, plain = self.weights[name], torch.contiguous_format
        if not self.moves(name):
            return torch.zeros_like(weight, memory_format=plain)
        full = torch.empty_like(weight, memory_format=plain) if out is None else out
        table = _as_rows(full)
        scale = self.scale(name) if scale is None else scale
        for index, rows in enumerate(_row_blocks(weight)):
            target = table[rows]
            block = _scaled(self._normal(name, index, rows, weight, target), rows, scale)
            if block is not target:
                target.copy_(block)
        return full

    def scale(self, name: str) -> Scale:
        """What the numbers drawn for a tensor are scaled by, as the weights are now."""
        weight = self.weights[name]
        factor = self._layer_scale(name, weight)
        if factor is not None:
            return factor
        spare = partial(_typical, name, self.weights)
        rows = _as_rows(weight)
        return torch.cat([_lengths(rows[block], spare) for block in _row_blocks(weight)])

    def blocks(
        self, name: str, only: range | None = None, scale: Scale | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """The tensor piece by piece, so that little of it exists at a time.

        Args:
            name: of the tensor.
            only: rows to draw, where a process holds some of them; places count from the
                first of these.
            scale: what `scale` gave for it, where that is known already.

        Yields:
            Rows, and what they hold.
        """
        weight = self.weights[name]
        if not self.moves(name):
            return
        factor = self._layer_scale(name, weight) if scale is None else scale
        spare: Callable[[], float] = partial(_typical, name, self.weights)
        if only is not None and factor is None and not _as_rows(weight).flatten(1).any(1).all():
            # Looked up by all processes or by none: weights may have to be gathered for it.
            spare = partial(float, spare())
        for index, rows in enumerate(_row_blocks(weight)):
            overlap = rows if only is None else _overlap(rows, only)
            if overlap.start >= overlap.stop:
                continue
            block = self._normal(name, index, rows, weight)
            block = block[overlap.start - rows.start : overlap.stop - rows.start]
            if factor is None:
                block = _to_lengths(block, _lengths(_as_rows(weight)[overlap], spare))
            else:
                block = _scaled(block, overlap, factor)
            first = 0 if only is None else only.start
            yield slice(overlap.start - first, overlap.stop - first), block

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

    def _normal(
        self, name: str, block: int, rows: slice, weight: Tensor, out: Tensor | None = None
    ) -> Tensor:
        like = _as_rows(weight)[rows]
        source = generator(self.seed, "direction", self.axis, plain_name(name), block)
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        if out is None or out.dtype != kind or out.device.type != "cpu":
            drawn = torch.randn(like.shape, generator=source, dtype=kind)
        else:
            # The same numbers; memory that is new costs as much as they do.
            drawn = out.normal_(generator=source)
        row = self.still.get(name, -1)
        if rows.start <= row < rows.stop:
            drawn[row - rows.start] = 0.0
        return drawn.to(like.device, like.dtype)


def _overlap(rows: slice, only: range) -> slice:
    return slice(max(rows.start, only.start), min(rows.stop, only.stop))


def _rescaled(d: Tensor, name: str, weights: Params, *, axis: int) -> Tensor:
    length = vector_norm(d, dim=tuple(range(axis, d.ndim)), keepdim=True)
    target = _lengths(weights[name], partial(_typical, name, weights), axis)
    # A zero filter of the direction has no orientation to keep; dividing would give nan.
    return torch.where(length > 0, d / length, 0.0) * target


def _scaled(block: Tensor, rows: slice, scale: Scale) -> Tensor:
    # In place: the block is drawn for this.
    if isinstance(scale, Tensor):
        return _to_lengths(block, scale[rows])
    return block if scale == 1 else block.mul_(scale)


def _to_lengths(block: Tensor, lengths: Tensor) -> Tensor:
    length = vector_norm(block, dim=tuple(range(1, block.ndim)), keepdim=True)
    # A zero filter of the direction has no orientation to keep; dividing would give nan.
    return block.div_(length.masked_fill_(length == 0, 1.0)).mul_(lengths)


def _lengths(w: Tensor, spare: Callable[[], float], axis: int = 1) -> Tensor:
    target: Tensor = vector_norm(w, dim=tuple(range(axis, w.ndim)), keepdim=True)
    if not target.all():
        entries = w.numel() // max(1, target.numel())
        target = torch.where(target > 0, target, spare() * entries**0.5)
    return target


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
