"""Where a group acts: views of tensors in which it permutes one axis."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossatlas.io.records import record
from lossatlas.weights.axes import Axis

# Entries of a tensor that are worked on at once: copies of them are all that is held.
ROOM = 2**22


@record
@dataclass(frozen=True)
class Step:
    """One step from an axis to a part of it.

    Attributes:
        start: first index of the piece.
        length: of the piece.
        sizes: factors that the piece is unfolded into; empty where it stays one axis.
        factor: which factor to go on with.
        fixed: (factor, index) pairs that are selected; the group acts within them only.
    """

    start: int
    length: int
    sizes: tuple[int, ...] = ()
    factor: int = 0
    fixed: tuple[tuple[int, int], ...] = ()


@record
@dataclass(frozen=True)
class Place:
    """A part of a tensor that a group acts on.

    Attributes:
        tensor: name of the parameter or statistic.
        axis: which axis.
        steps: how to get from that axis to the one that is permuted.
        others: (axis, steps, index) of other axes of which one index is taken beforehand.
    """

    tensor: str
    axis: int
    steps: tuple[Step, ...] = ()
    others: tuple[tuple[int, tuple[Step, ...], int], ...] = ()

    def locate(self, tensor: Tensor) -> tuple[Tensor, int]:
        """A view of the tensor, and the axis of it that the group permutes."""
        axis = self.axis
        for other, steps, index in sorted(self.others, key=lambda item: -item[0]):
            before = tensor.ndim
            tensor, path = _follow(tensor, other, steps)
            tensor = tensor.select(path, index)
            axis += tensor.ndim - before if other < axis else 0
        return _follow(tensor, axis, self.steps)

    def rows(self, tensor: Tensor) -> Tensor:
        """What the group acts on, one row an index; a copy, shape (size, rest)."""
        parts = list(self.row_parts(tensor))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def row_parts(self, tensor: Tensor) -> Iterator[Tensor]:
        """The same, some columns at a time."""
        view, axis = self.locate(tensor)
        for slab in slabs(view, axis):
            yield slab.movedim(axis, 0).reshape(slab.shape[axis], -1)

    def __str__(self) -> str:
        return f"{self.tensor}, axis {self.axis}"


def slabs(view: Tensor, axis: int | None = None) -> Iterator[Tensor]:
    """A view in pieces of bounded size, none of them cut along `axis`."""
    others = [k for k in range(view.ndim) if k != axis]
    if view.numel() <= ROOM or not others:
        yield view
        return
    widest = max(others, key=lambda k: view.shape[k])
    step = max(1, ROOM * view.shape[widest] // view.numel())
    yield from torch.split(view, step, widest)


def _follow(view: Tensor, axis: int, steps: tuple[Step, ...]) -> tuple[Tensor, int]:
    for step in steps:
        view = view.narrow(axis, step.start, step.length)
        if step.sizes:
            shape = (*view.shape[:axis], *step.sizes, *view.shape[axis + 1 :])
            view = view.view(shape)
            for factor, index in sorted(step.fixed, reverse=True):
                view = view.select(axis + factor, index)
            axis += step.factor - sum(factor < step.factor for factor, _ in step.fixed)
    return view, axis


def walk(axis: Axis) -> Iterator[tuple[Axis, tuple[Step, ...]]]:
    """The free parts of an axis that cannot be taken apart, each with the way to it."""
    root = axis.root()
    if root.is_held or root.size < 2:
        return
    if root.kind == "leaf":
        yield root, ()
    elif root.kind == "sum":
        start = 0
        for part in root.parts:
            for leaf, steps in walk(part):
                yield leaf, (Step(start, part.size), *steps)
            start += part.size
    else:
        sizes = tuple(part.size for part in root.parts)
        for k, part in enumerate(root.parts):
            for leaf, steps in walk(part):
                yield leaf, (Step(0, math.prod(sizes), sizes, k), *steps)


def within(inner: Place, outer: Place, index: int) -> Place | None:
    """The part of `inner` at one index of `outer`; None where they are no joint axes."""
    if inner.tensor != outer.tensor:
        return None
    if inner.axis != outer.axis:
        return replace(inner, others=(*inner.others, (outer.axis, outer.steps, index)))
    for k, (a, b) in enumerate(zip(inner.steps, outer.steps, strict=False)):
        if a == b:
            continue
        fixed_elsewhere = (a.start, a.length, a.sizes) == (b.start, b.length, b.sizes)
        # Pieces of a sum are alternatives; only factors of one product are joint.
        if not fixed_elsewhere or not a.sizes or len(outer.steps) > k + 1:
            return None
        step = replace(a, fixed=(*a.fixed, (b.factor, index)))
        return replace(inner, steps=(*inner.steps[:k], step, *inner.steps[k + 1 :]))
    return None
