"""Single tensors of points of a plane, with directions drawn once for many points."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lossatlas.landscape.directions import RandomDirection, Scale
from lossatlas.landscape.engines.task import bytes_of
from lossatlas.landscape.plane import Plane

Point = tuple[float, ...]
# What is drawn block by block exists twice at most, in float32 and in the precision of weights.
_BLOCKS = 4 * (8 << 20)


class MovedTensors:
    """One tensor of a point at a time: origin + a u + b v + ..., summed in that order.

    Drawn tensors are kept for later points as far as the budget allows. A tensor whose
    directions do not even fit temporarily is computed block by block for every point.

    Args:
        plane: where the points lie.
        budget: bytes that may be taken.

    Attributes:
        still: name -> the tensors that no direction moves.
        keeps_all: whether all directions and all tensors of a point fit.
        memory: bytes that are taken in all, at most.
    """

    def __init__(self, plane: Plane, budget: int) -> None:
        self._plane = plane
        self._drawn = [d for d in plane.directions if isinstance(d, RandomDirection)]
        origin = {name: value.detach() for name, value in plane.origin.items()}
        self.still = {n: value for n, value in origin.items() if not self._moves(n)}
        sizes = [bytes_of(value) for n, value in origin.items() if n not in self.still]
        drawn = len(self._drawn) * sum(sizes)
        self.keeps_all = drawn + sum(sizes) <= budget
        # What is drawn for a moment, and dropped: the largest that is not kept needs room.
        self._left = drawn if self.keeps_all else budget // 4
        self._moment = budget // 4
        self._kept: dict[str, list[Tensor]] = {}
        self._scales: dict[tuple[int, str], Scale] = {}
        self._scratch: list[Tensor | None] = [None] * len(plane.directions)
        most = max(sizes, default=0)
        held = drawn + sum(sizes) if self.keeps_all else min(budget // 2, drawn)
        self.memory = _BLOCKS + 2 * most + held
        self._here: tuple[Point, dict[str, Tensor]] = ((), {})

    def _moves(self, name: str) -> bool:
        everything = len(self._drawn) < len(self._plane.directions)
        return everything or any(direction.moves(name) for direction in self._drawn)

    def one(self, point: Point, name: str) -> Tensor:
        """One tensor of one point."""
        if not self.keeps_all:
            return next(self.at(name, [point]))
        if point != self._here[0]:
            self._here = (point, {})
        if name not in self._here[1]:
            self._here[1][name] = next(self.at(name, [point]))
        return self._here[1][name]

    def at(self, name: str, points: Sequence[Point]) -> Iterator[Tensor]:
        """One tensor of some points, in their order; equal neighbors share it."""
        origin = self._plane.origin[name].detach()
        if name in self.still:
            yield from (origin for _ in points)
            return
        lines = self._lines(name) if any(map(any, points)) else ()
        before: Point | None = None
        row_at: Point | None = None
        for point in points:
            if point != before:
                before, found = point, origin
                if any(point) and lines is None:
                    found = self._by_blocks(name, point)
                elif any(point) and lines:
                    if row_at != point[:-1]:
                        row, row_at = _sum(origin, point[:-1], lines), point[:-1]
                    found = _sum(row, point[-1:], lines[-1:])
            yield found

    def _lines(self, name: str) -> Sequence[Tensor] | None:
        # The directions of a tensor, or None where they are too large.
        if name in self._kept:
            return self._kept[name]
        size = bytes_of(self._plane.origin[name]) * len(self._drawn)
        if size > max(self._left, self._moment):
            return None
        keep = size <= self._left
        lines = [self._line(axis, name, keep) for axis in range(self._plane.dimension)]
        if keep:
            self._kept[name] = lines
            self._left -= size
        return lines

    def _line(self, axis: int, name: str, keep: bool) -> Tensor:
        direction = self._plane.directions[axis]
        if not isinstance(direction, RandomDirection):
            return direction[name]
        out = None if keep else self._place(axis, self._plane.origin[name])
        return direction.whole(name, self._scale(axis, name), out)

    def _place(self, axis: int, like: Tensor) -> Tensor:
        # Memory that was written before: new pages cost a third of what drawing does.
        held = self._scratch[axis]
        if held is None or held.numel() < like.numel() or not _same_kind(held, like):
            held = self._scratch[axis] = torch.empty(
                like.numel(), dtype=like.dtype, device=like.device
            )
        return held[: like.numel()].view(like.shape)

    def _scale(self, axis: int, name: str) -> Scale:
        # Filters have the same lengths along all directions of a plane.
        direction = self._plane.directions[axis]
        assert isinstance(direction, RandomDirection)
        own = axis if direction.normalization == "layer" else 0
        if (own, name) not in self._scales and direction.moves(name):
            self._scales[own, name] = direction.scale(name)
        return self._scales.get((own, name), 1.0)

    def _by_blocks(self, name: str, point: Point) -> Tensor:
        moved = self._plane.origin[name].detach().clone(memory_format=torch.contiguous_format)
        rows = moved if moved.ndim > 1 else moved.view(1, -1)
        for axis, step in enumerate(point):
            direction = self._plane.directions[axis]
            if not step:
                continue
            if not isinstance(direction, RandomDirection):
                moved.add_(direction[name], alpha=step)
                continue
            for where, block in direction.blocks(name, scale=self._scale(axis, name)):
                rows[where].add_(block, alpha=step)
        return moved


def _sum(start: Tensor, steps: Point, lines: Sequence[Tensor]) -> Tensor:
    for step, line in zip(steps, lines, strict=False):
        if step:
            start = torch.add(start, line, alpha=step)
    return start


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device
