"""The weights of a point, written into one flat buffer that the model reads through views."""

import mmap
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from lossatlas.landscape.directions import RandomDirection
from lossatlas.linalg.params import Params

# What x86 and ARM call a large page; below a few of them nothing is gained.
_PAGE = 2 << 20


class PointBuffer:
    """Moves a set of tensors to any point of a plane with one fused sum per direction.

    A point is always origin + a u + b v + ..., summed in that order from the origin, so its
    bits do not depend on earlier points. All but the last partial sum is cached.

    Args:
        origin: the point with coordinates zero.
        directions: with the names and shapes of the origin.
        channels_last: names of four-dimensional tensors to lay out with channels last.
    """

    def __init__(
        self,
        origin: Params,
        directions: Sequence[Params],
        channels_last: frozenset[str] = frozenset(),
    ) -> None:
        kinds = dict.fromkeys((value.dtype, value.device) for value in origin.values())
        self.views: dict[str, Tensor] = {}
        self._groups = []
        for kind in kinds:
            names = [n for n, value in origin.items() if (value.dtype, value.device) == kind]
            group = _Group(names, origin, directions, channels_last)
            self._groups.append(group)
            self.views |= group.views
        self.views = {name: self.views[name] for name in origin}

    def move_to(self, coordinates: Sequence[float]) -> None:
        """Write the weights of a point."""
        for group in self._groups:
            group.move_to(coordinates)

    @staticmethod
    def copies(directions: int) -> int:
        """How many copies of the weights a buffer holds."""
        return directions + 3


class _Group:
    """All tensors of one type on one device."""

    def __init__(
        self,
        names: list[str],
        origin: Params,
        directions: Sequence[Params],
        channels_last: frozenset[str],
    ) -> None:
        self._origin = _flat(origin, names, channels_last)
        self._directions = [_flat(d, names, channels_last) for d in directions]
        self._row = _blank(self._origin.numel(), self._origin.dtype, self._origin.device)
        self._point = _blank(self._origin.numel(), self._origin.dtype, self._origin.device)
        self.views = _views(self._point, {n: origin[n].shape for n in names}, channels_last)
        self._row_at: tuple[float, ...] | None = None

    def move_to(self, coordinates: Sequence[float]) -> None:
        *first, last = map(float, coordinates)
        if self._row_at != tuple(first):
            row = self._origin
            for step, direction in zip(first, self._directions, strict=False):
                row = torch.add(row, direction, alpha=step, out=self._row)
            if not first:
                self._row = self._origin
            self._row_at = tuple(first)
        torch.add(self._row, self._directions[-1], alpha=last, out=self._point)


def _flat(params: Params, names: list[str], channels_last: frozenset[str]) -> Tensor:
    # Drawn where it stays: new memory costs as much as random numbers do.
    drawn = params.weights if isinstance(params, RandomDirection) else params
    like = [drawn[name] for name in names]
    kind = reduce(torch.promote_types, (value.dtype for value in like))
    flat = _blank(sum(value.numel() for value in like), kind, like[0].device)
    pieces = torch.split(flat, [value.numel() for value in like])
    for name, value, piece in zip(names, like, pieces, strict=True):
        target = piece.view(value.shape)
        if name in channels_last:
            o, i, h, w = value.shape
            target = piece.view(o, h, w, i).permute(0, 3, 1, 2)
        if isinstance(params, RandomDirection) and name not in channels_last:
            moved = params.whole(name, out=target)
        else:
            moved = params[name]
        if moved is not target:
            target.copy_(moved)
    return flat


def _blank(numel: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized memory, in large pages if the system supports them."""
    # A point is written and read once: much of what it costs is looking up its pages.
    size = numel * torch.empty(0, dtype=kind).element_size()
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if device.type != "cpu" or size < 2 * _PAGE or advice is None:
        return torch.empty(numel, dtype=kind, device=device)
    try:
        pages = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(advice)
    except (OSError, ValueError):
        # No such pages, or no memory: torch says which.
        return torch.empty(numel, dtype=kind, device=device)
    whole = torch.frombuffer(pages, dtype=torch.uint8)
    start = -whole.data_ptr() % _PAGE
    return whole[start : start + size].view(kind)


def _views(
    flat: Tensor, shapes: Mapping[str, torch.Size], channels_last: frozenset[str]
) -> dict[str, Tensor]:
    views, start = {}, 0
    for name, shape in shapes.items():
        piece = flat[start : start + shape.numel()]
        start += shape.numel()
        if name in channels_last:
            o, i, h, w = shape
            views[name] = piece.view(o, h, w, i).permute(0, 3, 1, 2)
        else:
            views[name] = piece.view(shape)
    return views
