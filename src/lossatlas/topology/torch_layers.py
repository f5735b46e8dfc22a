"""Differentiable barcodes: pairs are computed without gradient, their values gathered with it.

Births and deaths are entries of the field (or heights of edges, or distances), so if these are
distinct the gradient is exact: 1 at the entry, 0 elsewhere.
"""

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.topology.basins import Basins
from lossatlas.topology.device import on_host, tensor_basins
from lossatlas.topology.field import CONNECTIVITIES, Connectivity, Ints
from lossatlas.topology.filtration import graph, graph_basins
from lossatlas.topology.pairing import elder_rule
from lossatlas.topology.rips import rips, spanning_edges


def grid_bars(
    values: Tensor,
    *,
    dimension: int = 0,
    connectivity: Connectivity = "full",
    essential: str = "drop",
) -> Tensor:
    """Bars of the sublevel filtration of a grid."""
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_one_of("essential", essential, ("drop", "cap"))
    check_finite_field("values", values)
    flat = values.reshape(-1)
    pairs = torch.as_tensor(pair_indices(values, dimension, connectivity), device=values.device)
    if essential == "cap" and dimension == 0:
        essential_bar = torch.stack([flat.argmin(), flat.argmax()])[None]
        pairs = torch.cat([pairs, essential_bar])
    return _positive_bars(flat[pairs])


def pair_indices(values: Tensor, dimension: int, connectivity: Connectivity) -> Ints:
    """Flat indices of the entries at which each bar is born and dies."""
    if dimension == 0:
        return _merges(tensor_basins(values, connectivity))
    if dimension != 1 or values.ndim != 2:
        raise ArgumentError(
            f"`dimension` must be 0, or 1 for a plane; got {dimension!r} for a field of "
            f"{values.ndim} dimensions."
        )
    # A loop around a hill is a basin of the negated field that joins the outside.
    turned, opposite = complement(values, connectivity)
    pairs = _merges(tensor_basins(turned, opposite, torch.ones_like(turned, dtype=torch.bool)))
    return unpadded_indices(pairs, turned.shape)[:, ::-1].copy()


def complement(values: Tensor, connectivity: str) -> tuple[Tensor, str]:
    """The field whose degree 0 mirrors degree 1 of a plane."""
    turned = torch.nn.functional.pad(-values.detach(), (1, 1, 1, 1), value=-torch.inf)
    return turned, {"full": "axis", "axis": "full"}[connectivity]


def unpadded_indices(indices: Ints, shape: tuple[int, ...]) -> Ints:
    """Convert flat indices of a padded plane to those of the plane."""
    row, column = np.divmod(indices, shape[1])
    return np.asarray((row - 1) * (shape[1] - 2) + column - 1)


def graph_bars(values: Tensor, edges: Tensor, heights: Tensor | None = None) -> Tensor:
    """Bars of degree 0 of a filtered graph, without essential ones."""
    check_finite_field("values", values)
    if heights is not None:
        check_finite_field("heights", heights)
    tops = None if heights is None else on_host(heights)
    source = graph(on_host(values), edges.detach().cpu().numpy(), tops)
    basins = graph_basins(source)
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    births = values[_index(basins.minima[pairs.ended], values)]
    if heights is None:
        deaths = values[_index(basins.ends[pairs.edge, 1], values)]
    else:
        deaths = heights[_index(basins.numbers[pairs.edge], values)]
    return _positive_bars(torch.stack([births, deaths], dim=1))


def rips_bars(points: Tensor, *, dimension: int = 0) -> Tensor:
    """Bars of the Vietoris-Rips filtration of a cloud, without essential ones."""
    check_finite_field("points", points)
    # The matrix is in double precision, so every death equals one of its entries exactly.
    cloud = points.detach().cpu().double()
    distances = on_host(vector_norm(cloud[:, None] - cloud[None], dim=-1))
    if dimension == 0:
        deaths = _gathered(points, spanning_edges(distances))
        return _positive_bars(torch.stack([torch.zeros_like(deaths), deaths], dim=1))
    bars = rips(distances=distances, dimensions=(dimension,)).bars(dimension)
    upper = np.stack(np.triu_indices(len(distances), 1), axis=1)
    lengths = distances[upper[:, 0], upper[:, 1]]
    order = np.argsort(lengths, kind="stable")
    edges = upper[order[np.searchsorted(lengths[order], bars)]]
    return torch.stack([_gathered(points, edges[:, k]) for k in (0, 1)], dim=1)


def edge_lengths(points: Tensor, edges: Ints) -> Tensor:
    """Edge lengths in a cloud; at length 0 the gradient is 0."""
    return _gathered(points, edges)


def _gathered(points: Tensor, edges: Ints) -> Tensor:
    ends = points[_index(edges, points)]
    lengths: Tensor = vector_norm(ends[:, 0] - ends[:, 1], dim=-1)
    return lengths


def _merges(basins: Basins) -> Ints:
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    return np.stack([basins.minima[pairs.ended], basins.ends[pairs.edge, 1]], axis=1)


def _index(indices: Ints, like: Tensor) -> Tensor:
    return torch.as_tensor(indices, device=like.device)


def _positive_bars(bars: Tensor) -> Tensor:
    return bars[bars[:, 1] > bars[:, 0]]


def check_finite_field(argument: str, values: Tensor) -> None:
    """Require a non-empty tensor of finite numbers."""
    bad = values.numel() - int(values.isfinite().sum())
    if bad or values.numel() == 0:
        raise NonFiniteError(
            f"`{argument}` must be finite numbers; got {bad} of {values.numel()} that are not; "
            "differentiable barcodes support only finite values."
        )
