"""Topological losses: total persistence, topological signature, Betti matching."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.topology.basins import grid_basins
from lossatlas.topology.device import on_host
from lossatlas.topology.field import CONNECTIVITIES, Connectivity, Floats, Ints
from lossatlas.topology.image_persistence import image_persistence
from lossatlas.topology.pairing import elder_rule
from lossatlas.topology.rips import spanning_edges
from lossatlas.topology.torch_layers import (
    check_finite_field,
    complement,
    edge_lengths,
    unpadded_indices,
)


@dataclass(frozen=True, eq=False)
class MatchedBars:
    """Flat indices of births and deaths, (bars, 2) each.

    Attributes:
        first: matched bars in the first field.
        second: their partners in the second, row by row.
        only_first: bars of the first field without a partner.
        only_second: bars of the second field without a partner.
    """

    first: Ints
    second: Ints
    only_first: Ints
    only_second: Ints


def matched_indices(
    first: Tensor, second: Tensor, dimension: int, connectivity: Connectivity
) -> MatchedBars:
    """Betti matching of the finite bars of two fields."""
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    if first.shape != second.shape:
        raise ArgumentError(
            "`first` and `second` must be fields on one grid; got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    if dimension == 0:
        return _basins_matched(on_host(first), on_host(second), connectivity)
    if dimension != 1 or first.ndim != 2:
        raise ArgumentError(
            f"`dimensions` must be 0, or 1 for planes; got {dimension!r} for fields of "
            f"{first.ndim} dimensions."
        )
    turned, opposite = complement(first, connectivity)
    shape = tuple(turned.shape)
    matched = _ridges_matched(
        on_host(turned), on_host(complement(second, connectivity)[0]), opposite
    )
    parts = (matched.first, matched.second, matched.only_first, matched.only_second)
    return MatchedBars(*(unpadded_indices(part, shape)[:, ::-1].copy() for part in parts))


def _basins_matched(first: Floats, second: Floats, connectivity: str) -> MatchedBars:
    common = np.minimum(first, second)
    everywhere = np.ones(common.shape, dtype=bool)
    first_images, second_images = (
        image_persistence(f, common, everywhere, connectivity) for f in (first, second)
    )
    bars = [_bars_by_minimum(field, connectivity) for field in (first, second)]
    shared = sorted(key for key in first_images.keys() & second_images.keys() if key[0] == 0)
    return _matched_bars(
        bars[0], bars[1], [(first_images[key], second_images[key]) for key in shared]
    )


def _ridges_matched(first: Floats, second: Floats, connectivity: str) -> MatchedBars:
    # Negation swaps the upper and the lower field and reverses the inclusions: images of the
    # common field, which end where bars of each field do.
    common = np.maximum(first, second)
    everywhere = np.ones(common.shape, dtype=bool)
    ends = [
        {point: key[1] for key, point in images.items() if key[0] == 0}
        for images in (
            image_persistence(common, f, everywhere, connectivity) for f in (first, second)
        )
    ]
    bars = [_bars_by_edge(field, connectivity) for field in (first, second)]
    shared = sorted(ends[0].keys() & ends[1].keys())
    return _matched_bars(bars[0], bars[1], [(ends[0][c], ends[1][c]) for c in shared])


def _bars_by_minimum(field: Floats, connectivity: str) -> dict[int, tuple[int, int]]:
    return {bar[0]: bar for bar in _bars_by_edge(field, connectivity).values()}


def _bars_by_edge(field: Floats, connectivity: str) -> dict[int, tuple[int, int]]:
    # Saddle number -> flat indices of minimum and saddle, without bars of length 0.
    basins = grid_basins(field, np.ones(field.shape, dtype=bool), connectivity)
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    births, deaths = basins.minima[pairs.ended], basins.ends[pairs.edge, 1]
    flat = field.ravel()
    long = flat[deaths] > flat[births]
    rows = zip(pairs.edge[long], births[long], deaths[long], strict=True)
    return {int(edge): (int(birth), int(death)) for edge, birth, death in rows}


def _matched_bars(
    first: dict[int, tuple[int, int]],
    second: dict[int, tuple[int, int]],
    pairs: list[tuple[int, int]],
) -> MatchedBars:
    lone_first = sorted(first.keys() - {a for a, _ in pairs})
    lone_second = sorted(second.keys() - {b for _, b in pairs})
    return MatchedBars(
        _rows([first[a] for a, _ in pairs]),
        _rows([second[b] for _, b in pairs]),
        _rows([first[a] for a in lone_first]),
        _rows([second[b] for b in lone_second]),
    )


def _rows(bars: list[tuple[int, int]]) -> Ints:
    return np.array(bars, dtype=np.int64).reshape(-1, 2)


def persistence_penalty(
    bars: Tensor, *, order: float = 1.0, keep: int = 0, reward: float = 0.0
) -> Tensor:
    """Total persistence of all but the longest bars."""
    check_at_least("keep", keep, 0)
    lengths = (bars[:, 1] - bars[:, 0]).sort(descending=True).values ** order
    return lengths[keep:].sum() - reward * lengths[:keep].sum()


def signature_loss(first: Tensor, second: Tensor, *, normalize: bool = True) -> Tensor:
    """Difference of two clouds in the distances that form their components."""
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise ArgumentError(
            "`first` and `second` must be the same two or more points in two spaces; got "
            f"shapes {tuple(first.shape)} and {tuple(second.shape)}."
        )
    check_finite_field("first", first)
    check_finite_field("second", second)
    clouds = (first, second)
    matrices = [vector_norm(c.detach()[:, None] - c.detach()[None], dim=-1) for c in clouds]
    scales = [
        _greatest(c, m) if normalize else 1.0 for c, m in zip(clouds, matrices, strict=True)
    ]
    total = first.new_zeros(())
    for matrix in matrices:
        edges = spanning_edges(on_host(matrix))
        a, b = (edge_lengths(c, edges) / s for c, s in zip(clouds, scales, strict=True))
        total = total + 0.5 * ((a - b) ** 2).sum()
    return total


def _greatest(cloud: Tensor, matrix: Tensor) -> Tensor:
    where = int(matrix.argmax())
    i, j = divmod(where, len(cloud))
    length: Tensor = vector_norm(cloud[i] - cloud[j])
    # All points coincide: nothing to scale.
    return torch.where(length > 0, length, torch.ones_like(length))


def betti_matching_loss(
    first: Tensor,
    second: Tensor,
    *,
    connectivity: Connectivity = "full",
    dimensions: tuple[int, ...] = (0, 1),
) -> Tensor:
    """Difference of two planes in their basins and loops, matched by location."""
    check_finite_field("first", first)
    check_finite_field("second", second)
    fields = (first.reshape(-1), second.reshape(-1))
    total = first.new_zeros(())
    for dimension in dimensions:
        matched = matched_indices(first, second, dimension, connectivity)
        parts = (matched.first, matched.second, matched.only_first, matched.only_second)
        matched_a, matched_b, only_a, only_b = (
            torch.as_tensor(part, device=first.device) for part in parts
        )
        a, b = fields[0][matched_a], fields[1][matched_b]
        total = total + 2.0 * ((a - b) ** 2).sum()
        for field, only in zip(fields, (only_a, only_b), strict=True):
            bars = field[only]
            total = total + ((bars[:, 1] - bars[:, 0]) ** 2).sum()
    if 0 in dimensions:
        total = total + 2.0 * (first.min() - second.min()) ** 2
    return total
