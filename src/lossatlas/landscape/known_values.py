"""Losses of a map that were computed, and errors that are of sampling alone."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import grid

if TYPE_CHECKING:
    from lossatlas.landscape.landscape import Landscape

Array = NDArray[np.float64]


def computed_values(land: "Landscape") -> Array:
    """The finite losses that were computed, NaN elsewhere; all finite ones if none was."""
    known = land.finite & land.computed
    return np.where(known if known.any() else land.finite, land.values, np.nan)


def sampling_errors(land: "Landscape") -> Array:
    """The errors of computed points; of all known ones where none was computed."""
    # At interpolated points they hold the error of interpolation as well.
    known = grid.known_errors(land)
    computed = known & land.computed
    return np.asarray(land.stderr[computed if computed.any() else known])
