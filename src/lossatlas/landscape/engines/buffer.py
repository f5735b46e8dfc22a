"""The weights of a point, written into one flat buffer that the model reads through views."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lossatlas.linalg.params import Params


class PointBuffer:
    """Moves a set of tensors to any point of a plane with one fused sum a direction.

    A point is always origin + a u + b v + ..., summed in that order from the origin, so its
    bits do not depend on which points came before. All but the last sum is remembered.

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
        self._row = torch.empty_like(self._origin)
        self._point = self._origin.clone()
        self.views = _views(self._point, {n: origin[n].shape for n in names}, channels_last)
        self._row_at: tuple[float, ...] | None = None

    def move_to(self, coordinates: Sequence[float]) -> None:
        *first, last = map(float, coordinates)
        if self._row_at != tuple(first):
            self._row.copy_(self._origin)
            for step, direction in zip(first, self._directions, strict=False):
                self._row.add_(direction, alpha=step)
            self._row_at = tuple(first)
        torch.add(self._row, self._directions[-1], alpha=last, out=self._point)


def _flat(params: Params, names: list[str], channels_last: frozenset[str]) -> Tensor:
    return torch.cat(
        [
            (params[n].permute(0, 2, 3, 1) if n in channels_last else params[n]).reshape(-1)
            for n in names
        ]
    )


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
