"""Buffers along a plane: running statistics are interpolated with their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import StructureError
from lossatlas.linalg.params import Params, add, fingerprint, multiply

Array = NDArray[np.float64]
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Buffers:
    """Buffers (and frozen parameters) as a function of the coordinates of a plane.

    They are affine in the coordinates, so each checkpoint keeps its exact buffers; variances
    never fall below the smallest of the checkpoints.

    Attributes:
        origin: name -> tensor at coordinates zero.
        directions: change along each direction; empty if they are the same everywhere.
        lowest: smallest allowed value of each variance.
    """

    origin: Params
    directions: tuple[Params, ...] = ()
    lowest: Params = field(default_factory=dict)

    def at(self, coordinates: Sequence[float]) -> Params:
        """The buffers of a point."""
        if not self.directions:
            return self.origin
        point: Params = self.origin
        for step, direction in zip(coordinates, self.directions, strict=True):
            point = add(point, direction, scale=float(step))
        return {**point, **{n: torch.maximum(point[n], low) for n, low in self.lowest.items()}}

    def only(self, names: Sequence[str]) -> "Buffers | None":
        """The buffers without some names."""
        if not names:
            return None
        parts = [{n: part[n] for n in names} for part in (self.origin, *self.directions)]
        lowest = {n: v for n, v in self.lowest.items() if n in parts[0]}
        return Buffers(parts[0], tuple(parts[1:]), lowest)

    def joined(self, second: "Buffers") -> "Buffers":
        """Merge two sets of buffers of one plane."""
        count = max(len(self.directions), len(second.directions))
        mine, theirs = (_moving(part, count) for part in (self, second))
        directions = tuple({**a, **b} for a, b in zip(mine, theirs, strict=True))
        return Buffers(
            {**self.origin, **second.origin}, directions, {**self.lowest, **second.lowest}
        )

    def fingerprint(self) -> str:
        """Digest of all buffers."""
        return "-".join(map(fingerprint, (self.origin, *self.directions, self.lowest)))


def between(points: Sequence[Params], coordinates: Array, origin: int) -> Buffers | None:
    """The buffers of a plane through checkpoints."""
    if not points[origin]:
        return None
    others = [k for k in range(len(points)) if k != origin]
    if len(others) != coordinates.shape[1]:
        return Buffers(points[origin])
    moving = {n: v for n, v in points[origin].items() if v.is_floating_point()}
    _check_integers(points, set(points[origin]) - set(moving))
    weights = np.linalg.inv(coordinates[others] - coordinates[origin])
    steps = [
        {name: value - moving[name] for name, value in _only(points[k], moving).items()}
        for k in others
    ]
    directions = tuple(_combined(steps, row) for row in weights)
    lowest = {
        name: torch.stack([point[name] for point in points]).amin(0)
        for name in moving
        if name.endswith("running_var")
    }
    return Buffers(moving, directions, lowest)


def _moving(part: Buffers, count: int) -> Sequence[Params]:
    still = {name: torch.zeros_like(value) for name, value in part.origin.items()}
    return part.directions or [still] * count


def split_statistics(points: Sequence[Params]) -> tuple[list[Params], list[Params]]:
    """Parameters and running statistics of state dicts, separated by their names."""
    has_statistics = [
        isinstance(point, Mapping) and any(map(is_statistic, point)) for point in points
    ]
    if any(has_statistics) and not all(has_statistics):
        raise StructureError(
            f"checkpoint {has_statistics.index(False) + 1} has no running statistics but "
            "another does; pass full state dicts (model.state_dict()) for all, or parameters "
            "for all."
        )
    if not all(isinstance(point, Mapping) for point in points):
        return list(points), [{} for _ in points]
    shared = _shared_integers(points)
    params: list[Params] = [
        {n: v for n, v in p.items() if not is_statistic(n) and n not in shared} for p in points
    ]
    return params, [{n: v for n, v in p.items() if n.endswith(_STATISTICS)} for p in points]


def is_statistic(name: object) -> bool:
    """Whether a name is that of a running statistic or its counter, as torch has them."""
    return isinstance(name, str) and name.endswith((*_STATISTICS, "num_batches_tracked"))


def _shared_integers(points: Sequence[Params]) -> set[str]:
    first, *others = points
    integers = {n for n, v in first.items() if isinstance(v, Tensor) and _is_integer(v)}
    return {n for n in integers if all(n in p and torch.equal(first[n], p[n]) for p in others)}


def _is_integer(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def _check_integers(points: Sequence[Params], names: set[str]) -> None:
    for name in sorted(names):
        if any(not torch.equal(point[name], points[0][name]) for point in points):
            raise StructureError(
                f"'{name}' holds integers that differ between the checkpoints and cannot be "
                "interpolated; use the same values in all of them."
            )


def _only(point: Params, like: Params) -> Params:
    return {name: point[name] for name in like}


def _combined(steps: Sequence[Params], weights: Array) -> Params:
    total = multiply(steps[0], float(weights[0]))
    for step, weight in zip(steps[1:], weights[1:], strict=True):
        total = add(total, step, scale=float(weight))
    return total
