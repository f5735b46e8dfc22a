"""Computed losses of a map, and their pure sampling errors."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import grid

if TYPE_CHECKING:
    from lossatlas.landscape.landscape import Landscape

Array = NDArray[np.float64]


def computed_values(land: "Landscape") -> Array:
    """Finite computed losses, NaN elsewhere; all finite losses if none was computed."""
    known = land.finite & land.computed
    return np.where(known if known.any() else land.finite, land.values, np.nan)


def sampling_errors(land: "Landscape") -> Array:
    """Errors of computed points; of all known points if none was computed."""
    # At interpolated points they include the interpolation error.
    known = grid.known_errors(land)
    computed = known & land.computed
    return np.asarray(land.stderr[computed if computed.any() else known])
