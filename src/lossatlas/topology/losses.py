"""Topological losses: fewer bumps, kept distances, basins in the same place."""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.topology.betti import matched_places
from lossatlas.topology.device import on_host
from lossatlas.topology.rips import spanning_edges
from lossatlas.topology.torch_layers import check_finite_field, edge_lengths


def persistence_penalty(
    bars: Tensor, *, order: float = 1.0, keep: int = 0, reward: float = 0.0
) -> Tensor:
    """Total persistence of all but the longest bars."""
    check_at_least("keep", keep, 0)
    lengths = (bars[:, 1] - bars[:, 0]).sort(descending=True).values ** order
    return lengths[keep:].sum() - reward * lengths[:keep].sum()


def signature_loss(first: Tensor, second: Tensor, *, normalize: bool = True) -> Tensor:
    """How far two clouds disagree on the distances that make their components."""
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
    # All points in one place: nothing to scale.
    return torch.where(length > 0, length, torch.ones_like(length))


def betti_matching_loss(
    first: Tensor,
    second: Tensor,
    *,
    connectivity: str = "full",
    dimensions: tuple[int, ...] = (0, 1),
) -> Tensor:
    """How far two planes disagree on their basins and ridges, place by place."""
    check_finite_field("first", first)
    check_finite_field("second", second)
    fields = (first.reshape(-1), second.reshape(-1))
    total = first.new_zeros(())
    for dimension in dimensions:
        places = matched_places(first, second, dimension, connectivity)
        parts = (places.first, places.second, places.only_first, places.only_second)
        both_a, both_b, only_a, only_b = (
            torch.as_tensor(part, device=first.device) for part in parts
        )
        a, b = fields[0][both_a], fields[1][both_b]
        total = total + 2.0 * ((a - b) ** 2).sum()
        for field, only in zip(fields, (only_a, only_b), strict=True):
            bars = field[only]
            total = total + ((bars[:, 1] - bars[:, 0]) ** 2).sum()
    if 0 in dimensions:
        total = total + 2.0 * (first.min() - second.min()) ** 2
    return total
