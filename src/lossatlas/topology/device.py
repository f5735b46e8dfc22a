"""Basins on an accelerator: the reduction of `basins.py` in torch."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.topology.basins import Basins, edge_slices, merge_plateaus
from lossatlas.topology.field import Floats


def on_accelerator(source: Any) -> bool:
    """Whether `source` is a tensor on a device other than the CPU."""
    return isinstance(source, Tensor) and source.device.type != "cpu"


def tensor_basins(values: Tensor, connectivity: str, finite: Tensor | None = None) -> Basins:
    """Reduce a grid to minima and saddles on the device of `values`."""
    finite = values.isfinite() if finite is None else finite
    flat = torch.where(finite, values, torch.inf).detach().reshape(-1)
    order = flat.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(flat.numel(), device=flat.device)
    grid = rank.reshape(values.shape)
    lowest = torch.where(finite, _lowest_neighbor(grid, connectivity), grid)
    labels, minima = _descend(order[lowest.reshape(-1)], order, finite.reshape(-1))
    low, high = _lowest_saddles(
        labels.reshape(values.shape), rank, minima.numel(), connectivity
    )
    ends = torch.stack([low, high], dim=1)
    first, second = labels[low], labels[high]
    numbers = (part.cpu().numpy() for part in (labels, minima, first, second, ends))
    basins = Basins(*numbers, on_host(flat[high]))  # type: ignore[call-arg]
    return _lowest_of_pairs(merge_plateaus(basins, on_host(flat[minima])))


def _lowest_of_pairs(basins: Basins) -> Basins:
    # Merged plateaus may share several saddles with one neighbor; the first is the lowest.
    count = basins.minima.size
    pair = np.minimum(basins.first, basins.second) * count
    pair += np.maximum(basins.first, basins.second)
    lowest = np.sort(np.unique(pair, return_index=True)[1])
    return replace(
        basins,
        first=basins.first[lowest],
        second=basins.second[lowest],
        ends=basins.ends[lowest],
        heights=basins.heights[lowest],
    )


def on_host(values: Tensor) -> Floats:
    """Convert a tensor to a float64 numpy array."""
    # Moved first: not every accelerator supports double precision.
    return np.asarray(values.detach().cpu().double().numpy())


def _lowest_neighbor(rank: Tensor, connectivity: str) -> Tensor:
    lowest = rank.clone()
    for axis, size in enumerate(rank.shape):
        source = lowest.clone() if connectivity == "full" else rank
        for target_start, source_start in ((0, 1), (1, 0)):
            target = lowest.narrow(axis, target_start, size - 1)
            target.copy_(torch.minimum(target, source.narrow(axis, source_start, size - 1)))
    return lowest


def _descend(parent: Tensor, order: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    roots = (parent == torch.arange(parent.numel(), device=parent.device)) & finite
    while not torch.equal(parent, jumped := parent[parent]):
        parent = jumped
    minima = order[roots[order]]
    number = torch.full_like(parent, -1)
    number[minima] = torch.arange(minima.numel(), device=parent.device)
    return number[parent], minima


def _lowest_saddles(
    labels: Tensor, rank: Tensor, count: int, connectivity: str
) -> tuple[Tensor, Tensor]:
    index = torch.arange(labels.numel(), device=labels.device).reshape(labels.shape)
    saddles = []
    for start, end in edge_slices(labels.ndim, connectivity):
        a, b = labels[start], labels[end]
        crossing = (a != b) & (a >= 0) & (b >= 0)
        saddles.append(torch.stack([index[start][crossing], index[end][crossing]]))
    u, v = torch.cat(saddles, dim=1)
    low, high = torch.where(rank[u] < rank[v], u, v), torch.where(rank[u] < rank[v], v, u)
    ascending = rank[high].argsort(stable=True)
    low, high = low[ascending], high[ascending]
    a, b = labels.reshape(-1)[low], labels.reshape(-1)[high]
    pair = torch.minimum(a, b) * count + torch.maximum(a, b)
    together = pair.argsort(stable=True)
    fresh = torch.ones_like(pair, dtype=torch.bool)
    fresh[1:] = pair[together][1:] != pair[together][:-1]
    lowest = together[fresh].sort().values
    return low[lowest], high[lowest]
