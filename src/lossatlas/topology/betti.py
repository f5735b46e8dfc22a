"""The bars of two planes matched by place, down to the entries that bear and end them."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.topology.basins import grid_basins
from lossatlas.topology.device import on_host
from lossatlas.topology.field import CONNECTIVITIES, Floats, Ints
from lossatlas.topology.image_persistence import images
from lossatlas.topology.pairing import elder_rule
from lossatlas.topology.torch_layers import complement, inside


@dataclass(frozen=True, eq=False)
class Places:
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


def matched_places(first: Tensor, second: Tensor, dimension: int, connectivity: str) -> Places:
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
    turned, other = complement(first, connectivity)
    shape = tuple(turned.shape)
    places = _ridges_matched(
        on_host(turned), on_host(complement(second, connectivity)[0]), other
    )
    parts = (places.first, places.second, places.only_first, places.only_second)
    return Places(*(inside(part, shape)[:, ::-1].copy() for part in parts))


def _basins_matched(first: Floats, second: Floats, connectivity: str) -> Places:
    common = np.minimum(first, second)
    everywhere = np.ones(common.shape, dtype=bool)
    one, two = (images(f, common, everywhere, connectivity) for f in (first, second))
    bars = [_bars_by_minimum(field, connectivity) for field in (first, second)]
    shared = sorted(key for key in one.keys() & two.keys() if key[0] == 0)
    return _places(bars[0], bars[1], [(one[key], two[key]) for key in shared])


def _ridges_matched(first: Floats, second: Floats, connectivity: str) -> Places:
    # Upside down the lower field of the two becomes the upper one, and the arrows turn:
    # images of the common field, which end where bars of each field do.
    common = np.maximum(first, second)
    everywhere = np.ones(common.shape, dtype=bool)
    ends = [
        {place: key[1] for key, place in found.items() if key[0] == 0}
        for found in (images(common, f, everywhere, connectivity) for f in (first, second))
    ]
    bars = [_bars_by_edge(field, connectivity) for field in (first, second)]
    shared = sorted(ends[0].keys() & ends[1].keys())
    return _places(bars[0], bars[1], [(ends[0][c], ends[1][c]) for c in shared])


def _bars_by_minimum(field: Floats, connectivity: str) -> dict[int, tuple[int, int]]:
    return {bar[0]: bar for bar in _bars_by_edge(field, connectivity).values()}


def _bars_by_edge(field: Floats, connectivity: str) -> dict[int, tuple[int, int]]:
    # Number of the pass -> flat indices of minimum and saddle, bars of length 0 left out.
    basins = grid_basins(field, np.ones(field.shape, dtype=bool), connectivity)
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    births, deaths = basins.minima[pairs.ended], basins.ends[pairs.edge, 1]
    flat = field.ravel()
    long = flat[deaths] > flat[births]
    rows = zip(pairs.edge[long], births[long], deaths[long], strict=True)
    return {int(edge): (int(birth), int(death)) for edge, birth, death in rows}


def _places(
    first: dict[int, tuple[int, int]],
    second: dict[int, tuple[int, int]],
    pairs: list[tuple[int, int]],
) -> Places:
    lone_first = sorted(first.keys() - {a for a, _ in pairs})
    lone_second = sorted(second.keys() - {b for _, b in pairs})
    return Places(
        _rows([first[a] for a, _ in pairs]),
        _rows([second[b] for _, b in pairs]),
        _rows([first[a] for a in lone_first]),
        _rows([second[b] for b in lone_second]),
    )


def _rows(places: list[tuple[int, int]]) -> Ints:
    return np.array(places, dtype=np.int64).reshape(-1, 2)
