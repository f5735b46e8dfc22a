"""Barcodes as functions of the level: Betti and Euler curves, landscapes, silhouettes."""

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.checks import check_at_least, check_number, check_one_of
from lossatlas.topology.bars import Bars, finite_bars, read_bars
from lossatlas.topology.choices import read_levels
from lossatlas.topology.field import CONNECTIVITIES, Floats, Ints, Source, read_field


def betti_curve(diagram: Bars, levels: ArrayLike, *, dimension: int = 0) -> Ints:
    """How many bars are alive at each level: births <= level < deaths.

    Args:
        diagram: a `Diagram`, or births and deaths.
        levels: where to count.
        dimension: the degree.

    Returns:
        One count a level, essential bars among them.

    Raises:
        ArgumentError: bad bars, or levels that are NaN or no row.
    """
    births, deaths = np.sort(read_bars(diagram, dimension, "keep"), axis=0).T
    at = read_levels(levels)
    return np.searchsorted(births, at, "right") - np.searchsorted(deaths, at, "right")


def euler_curve(landscape: Source, levels: ArrayLike, *, connectivity: str = "full") -> Ints:
    """Euler characteristic of each sublevel set, by counting cells; no homology needed.

    Args:
        landscape: a landscape or an array.
        levels: where to count.
        connectivity: "full" or "axis".

    Returns:
        One number a level: the alternating sum of the Betti curves of all degrees.

    Raises:
        ArgumentError: no array of real numbers, or levels that are NaN or no row.
        UnknownNameError: an unknown connectivity.
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    values = read_field(landscape).values
    at = read_levels(levels)
    total = np.zeros(at.shape, dtype=np.int64)
    for number in range(values.ndim + 1):
        for axes in combinations(range(values.ndim), number):
            spans = number if connectivity == "axis" else values.ndim - number
            cells = np.sort(_cells(values, axes, connectivity).ravel())
            cells = cells[cells < np.inf]
            total += (-1) ** spans * np.searchsorted(cells, at, "right")
    return total


def _cells(values: Floats, axes: tuple[int, ...], connectivity: str) -> Floats:
    # "axis": cells that span `axes`, at the highest vertex. "full": faces thin in `axes`, at
    # the lowest cell they touch.
    cells = values
    for axis in axes:
        if connectivity == "axis":
            along = np.moveaxis(cells, axis, 0)
            cells = np.moveaxis(np.maximum(along[:-1], along[1:]), 0, axis)
            continue
        width = [(1, 1) if k == axis else (0, 0) for k in range(cells.ndim)]
        along = np.moveaxis(np.pad(cells, width, constant_values=np.inf), axis, 0)
        cells = np.moveaxis(np.minimum(along[:-1], along[1:]), 0, axis)
    return cells


def persistence_landscape(
    diagram: Bars,
    levels: ArrayLike,
    *,
    depth: int = 5,
    dimension: int = 0,
    essential: str | float = "drop",
) -> Floats:
    """The k-th greatest of the tents min(t - birth, death - t) over the bars.

    Args:
        diagram: a `Diagram`, or births and deaths.
        levels: the values of t.
        depth: how many functions.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        (depth, levels), without the factor sqrt(2) of some libraries; each row 1-Lipschitz
        and at most the row above.

    Raises:
        ArgumentError: `depth` below 1, bad bars, or levels that are NaN or no row.

    Source: Bubenik, JMLR 16 (2015).
    """
    check_at_least("depth", depth, 1)
    tents = np.sort(_tents(finite_bars(diagram, dimension, essential), levels), axis=0)[::-1]
    rows = tents[:depth]
    return np.pad(rows, ((0, depth - len(rows)), (0, 0)))


def silhouette(
    diagram: Bars,
    levels: ArrayLike,
    *,
    power: float = 1.0,
    dimension: int = 0,
    essential: str | float = "drop",
) -> Floats:
    """Mean of the tents of all bars, each weighted by a power of its length.

    Args:
        diagram: a `Diagram`, or births and deaths.
        levels: the values of t.
        power: weight of a bar: its length to this power.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        One number a level; zero without bars.

    Raises:
        ArgumentError: bad bars, a power that is no number >= 0, or levels that are NaN or
            no row.

    Source: Chazal, Fasy, Lecci, Rinaldo, Wasserman, SoCG 2014.
    """
    check_number("power", power, 0)
    bars = finite_bars(diagram, dimension, essential)
    if len(bars) == 0:
        return np.zeros(read_levels(levels).shape)
    weights = (bars[:, 1] - bars[:, 0]) ** power
    return np.asarray(weights @ _tents(bars, levels) / weights.sum())


def _tents(bars: Floats, levels: ArrayLike) -> Floats:
    at = read_levels(levels)
    return np.maximum(0.0, np.minimum(at - bars[:, :1], bars[:, 1:] - at))
