"""Validate what a user chooses: degrees, orders of norms, relative errors, levels, points."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, is_number
from lossatlas.errors import ArgumentError, DataError
from lossatlas.topology.field import Floats

FARTHEST = 1e150  # coordinates whose squares are still numbers


def check_degrees(dimensions: Any) -> tuple[int, ...]:
    """Require homology degrees: distinct integers >= 0."""
    if not isinstance(dimensions, tuple | list):
        raise ArgumentError(
            f"`dimensions` must be degrees in a tuple, (0, 1) say; got {dimensions!r}."
        )
    for degree in dimensions:
        check_at_least("dimensions", degree, 0)
    if len(set(dimensions)) < len(dimensions):
        raise ArgumentError(f"`dimensions` must name each degree once; got {dimensions!r}.")
    return tuple(dimensions)


def check_degree(dimension: Any) -> None:
    """Require one degree of homology."""
    check_at_least(
        "dimension", int(dimension) if isinstance(dimension, np.integer) else dimension, 0
    )


def check_graph_options(*, error: Any, periodic: Any) -> None:
    """Reject arguments that apply only to grids."""
    if error is not None:
        raise ArgumentError(
            f"`error` is for arrays; got {error!r} with a graph: give it when making the graph."
        )
    if periodic is not False:
        raise ArgumentError(
            f"`periodic` is for grids; got {periodic!r} with a graph: add edges to it."
        )


def read_periodic(periodic: Any, shape: tuple[int, ...]) -> tuple[bool, ...]:
    """Which axes of a grid are circles."""
    flags = (periodic,) * len(shape) if isinstance(periodic, bool | np.bool_) else periodic
    if not isinstance(flags, tuple | list | np.ndarray) or len(flags) != len(shape):
        raise ArgumentError(
            f"`periodic` must be True, False or one bool for each of the {len(shape)} axes; "
            f"got {periodic!r}."
        )
    if not all(isinstance(flag, bool | np.bool_) for flag in flags):
        raise ArgumentError(f"`periodic` must hold True or False; got {periodic!r}.")
    short = [n for n, wraps in zip(shape, flags, strict=True) if wraps and n < 3]
    if short:
        raise ArgumentError(
            f"`periodic` axes need at least three points; got an axis of {short[0]}, whose "
            "ends are already neighbors."
        )
    return tuple(bool(flag) for flag in flags)


def check_norm(argument: str, order: Any) -> None:
    """Require the order of a norm."""
    if not is_number(order) or not order >= 1:
        raise ArgumentError(f"`{argument}` must be a number >= 1 or infinity; got {order!r}.")


def read_levels(levels: ArrayLike) -> Floats:
    """Convert the levels at which a function is evaluated."""
    at = as_float_array("levels", levels)
    if at.ndim > 1 or np.isnan(at).any():
        raise ArgumentError(
            "`levels` must be a one-dimensional array of numbers without NaN; got shape "
            f"{at.shape}."
        )
    return at


def read_coordinates(points: ArrayLike) -> Floats:
    """Coordinates of points whose distances are finite too."""
    coordinates = as_float_array("points", points)
    in_range = bool((np.abs(coordinates) < FARTHEST).all())
    if coordinates.ndim != 2 or coordinates.size == 0 or not in_range:
        raise DataError(
            "`points` must be finite coordinates of shape (points, dimensions), at least one "
            f"point, none beyond {FARTHEST:g}; got shape {coordinates.shape}."
        )
    return coordinates
