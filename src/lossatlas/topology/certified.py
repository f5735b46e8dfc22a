"""Basins that any field within the error band must have: certainty place by place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt, maximum_filter

from lossatlas.checks import check_one_of
from lossatlas.topology.basins import grid_basins
from lossatlas.topology.certainty import check_confidence, simultaneous_quantile
from lossatlas.topology.field import (
    CONNECTIVITIES,
    Bools,
    Field,
    Floats,
    Ints,
    Source,
    read_field,
)
from lossatlas.topology.inclusion import images
from lossatlas.topology.paired import contrast_band


@dataclass(frozen=True, eq=False)
class CertainBasins:
    """Basins of the true field, whatever it is within the band.

    Attributes:
        minima: flat index of the lowest point of each basin in the upper bound, the deepest
            first. The true minimum lies in the basin, not always at this point.
        births: level by which the basin is there at the latest.
        deaths: level up to which it is cut off from deeper ones at least; +inf for the
            deepest of each connected part.
        confidence: probability with which all of this holds at once.
    """

    minima: Ints
    births: Floats
    deaths: Floats
    confidence: float

    def __len__(self) -> int:
        return int(self.minima.size)


def certain_basins(
    landscape: Source,
    *,
    connectivity: str = "full",
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
) -> CertainBasins:
    """Count the basins that the errors of the map cannot have made.

    The threshold of a `Diagram` uses one bound for all points, the worst of them. A map is
    often sharp near its centre and blurred at its rim, and there this count sees more: with
    a lower and an upper bound at every point, a component of the upper sublevel set counts
    until the lower one joins it to a deeper one (image persistence of degree 0).

    Args:
        landscape: a landscape with standard errors; where it has none the band is as thin
            as the field.
        connectivity: "full" or "axis".
        confidence: probability with which the true field lies within the band everywhere.
        replicates: (count, ...) maps that other examples might have given (`replicate_maps`).
            The band is then that of differences from the lowest point of the map, so births
            and deaths are right up to one common error.

    Returns:
        The certain basins. Where the errors are equal everywhere these are the bars longer
        than the threshold.

    Raises:
        ArgumentError: not an array of real numbers, a confidence outside (0, 1), too few
            replicates for it, or replicates on another grid.
        DataError: no finite value.
        UnknownNameError: an unknown connectivity.
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_confidence(confidence)
    field = read_field(landscape, replicates)
    error = _band(field, confidence)
    lower, upper = field.values - error, field.values + error
    found = images(upper, lower, field.finite, connectivity)
    heights = grid_basins(lower, field.finite, connectivity).heights
    minima = np.array(list(found.values()), dtype=np.int64)
    deaths = np.array([heights[e] if kind == 0 else np.inf for kind, e in found])
    births = upper.ravel()[minima]
    order = np.lexsort((minima, births))
    return CertainBasins(minima[order], births[order], deaths[order], confidence)


def _band(field: Field, confidence: float) -> Floats:
    if field.errors is not None:
        origin = int(np.argmin(field.values[field.finite]))
        error = np.zeros(field.values.shape)
        error[field.finite] = contrast_band(field.errors, origin, confidence)
        # Both ends of a difference may have been interpolated.
        return error + 2.0 * field.interpolation_error
    error = np.full(field.values.shape, field.interpolation_error)
    if field.stderr is None:
        return error
    known = field.finite & np.isfinite(field.stderr)
    if known.any():
        points = int(np.count_nonzero(field.finite))
        error = error + simultaneous_quantile(confidence, points) * _spread(field.stderr, known)
    return error


def _spread(stderr: Floats, known: Bools) -> Floats:
    # An interpolated point has the sampling error of the points it was made from: the
    # greatest around it, once every gap holds that of the nearest known point.
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = stderr[tuple(nearest)]
    around = np.asarray(maximum_filter(filled, size=3, mode="nearest"), dtype=np.float64)
    return np.where(known, filled, around)
