"""Barcodes as functions and images of fixed size: curves, landscapes, silhouettes, images."""

from itertools import combinations
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from lossatlas.checks import check_at_least, check_number, check_one_of, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.topology.arguments import read_levels
from lossatlas.topology.bars import Bars, Essential, finite_bars, read_bars
from lossatlas.topology.field import (
    CONNECTIVITIES,
    Connectivity,
    Floats,
    Ints,
    Source,
    read_field,
)


def betti_curve(diagram: Bars, levels: ArrayLike, *, dimension: int = 0) -> Ints:
    """Number of bars alive at each level: birth <= level < death.

    Args:
        diagram: a `Diagram`, or births and deaths.
        levels: where to count.
        dimension: the degree.

    Returns:
        One count per level, including essential bars.

    Raises:
        ArgumentError: the bars are invalid, or the levels contain NaN or are not
            one-dimensional.

    Examples:
        >>> betti_curve([[0.0, 2.0], [1.0, 1.5]], [0.5, 1.2, 3.0])
        array([1, 2, 0])
    """
    births, deaths = np.sort(read_bars(diagram, dimension, "keep"), axis=0).T
    at = read_levels(levels)
    return np.searchsorted(births, at, "right") - np.searchsorted(deaths, at, "right")


def euler_curve(
    landscape: Source, levels: ArrayLike, *, connectivity: Connectivity = "full"
) -> Ints:
    """Euler characteristic of each sublevel set, computed by counting cells.

    Args:
        landscape: a landscape or an array.
        levels: where to count.
        connectivity: "full" or "axis".

    Returns:
        One number per level: the alternating sum of the Betti curves of all degrees.

    Raises:
        ArgumentError: the input is not an array of real numbers, or the levels contain NaN or
            are not one-dimensional.
        UnknownNameError: the connectivity is unknown.

    Examples:
        >>> euler_curve([3.0, 0.0, 2.0, 1.0, 3.0], [0.5, 1.5, 2.5])
        array([1, 2, 1])
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


def _cells(values: Floats, axes: tuple[int, ...], connectivity: Connectivity) -> Floats:
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
    essential: Essential | float = "drop",
) -> Floats:
    """Persistence landscape: the k-th largest tent max(0, min(t - birth, death - t)).

    Args:
        diagram: a `Diagram`, or births and deaths.
        levels: the values of t.
        depth: number of functions.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        Array of shape (depth, levels), without the factor sqrt(2) of some libraries. Each row
        is 1-Lipschitz and at most the row above.

    Raises:
        ArgumentError: `depth` is below 1, the bars are invalid, or the levels contain NaN or
            are not one-dimensional.

    Examples:
        >>> persistence_landscape([[0.0, 2.0], [1.0, 1.5]], [0.5, 1.2], depth=2)
        array([[0.5, 0.8],
               [0. , 0.2]])

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
    essential: Essential | float = "drop",
) -> Floats:
    """Mean of the tents of all bars, weighted by a power of their length.

    Args:
        diagram: a `Diagram`, or births and deaths.
        levels: the values of t.
        power: weight of a bar: its length to this power.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        One number per level; zero without bars.

    Raises:
        ArgumentError: the bars are invalid, `power` is not a number >= 0, or the levels contain
            NaN or are not one-dimensional.

    Examples:
        >>> silhouette([[0.0, 2.0]], [0.5, 1.0])
        array([0.5, 1. ])

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


def persistence_image(
    diagram: Bars,
    *,
    births: tuple[float, float],
    lengths: tuple[float, float],
    pixels: tuple[int, int] = (20, 20),
    spread: float | None = None,
    dimension: int = 0,
    essential: Essential | float = "drop",
) -> Floats:
    """Sum of Gaussians at (birth, length), weighted by length and integrated over each pixel.

    The weight grows linearly from 0 at length 0 to 1 at the upper end of `lengths` and stays
    there. Weight 0 on the diagonal makes the image stable; a common scale makes the images of
    several diagrams comparable.

    Args:
        diagram: a `Diagram`, or births and deaths.
        births: range of the first axis.
        lengths: range of the second axis.
        pixels: number of pixels along each axis.
        spread: standard deviation of the Gaussians; None uses one pixel of the length axis.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        An array of shape `pixels`: the mass of each pixel.

    Raises:
        ArgumentError: the ranges or `pixels` are not pairs of numbers, there is less than one
            pixel, or `spread` or a range is not positive.

    Examples:
        >>> square = {"births": (0, 1), "lengths": (0, 1), "pixels": (2, 2)}
        >>> image = persistence_image([[0.5, 1.0]], **square)
        >>> image.shape, bool(image.sum() < 0.5)
        ((2, 2), True)

    Source: Adams et al., JMLR 18 (2017).
    """
    for name, pair in (("births", births), ("lengths", lengths), ("pixels", pixels)):
        _check_pair(name, pair)
    for name, number in zip(("pixels[0]", "pixels[1]"), pixels, strict=True):
        check_at_least(name, number, 1)
    check_positive("births[1] - births[0]", births[1] - births[0])
    check_positive("lengths[1]", lengths[1])
    check_positive("lengths[1] - lengths[0]", lengths[1] - lengths[0])
    width = (lengths[1] - lengths[0]) / pixels[1] if spread is None else spread
    check_positive("spread", width)
    bars = finite_bars(diagram, dimension, essential)
    long = bars[:, 1] - bars[:, 0]
    weights = np.minimum(1.0, long / lengths[1])
    across = _masses(bars[:, 0], births, pixels[0], width)
    up = _masses(long, lengths, pixels[1], width)
    return np.asarray((across * weights[:, None]).T @ up)


def _check_pair(name: str, pair: Any) -> None:
    if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
        raise ArgumentError(f"`{name}` must be two numbers; got {pair!r}.")
    for number in pair:
        check_number(name, number)


def _masses(centers: Floats, span: tuple[float, float], count: int, spread: float) -> Floats:
    borders = np.linspace(*span, count + 1)
    return np.asarray(
        np.diff(scipy.special.ndtr((borders - centers[:, None]) / spread), axis=1)
    )
