"""Basins that any field within the error band must have: certainty place by place."""

import numpy as np
import scipy
from numpy.typing import ArrayLike

from lossatlas.checks import check_fraction, check_one_of
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.text import as_sentence, count
from lossatlas.topology.basins import grid_basins
from lossatlas.topology.certainty import (
    MIN_SHARE,
    MOST_LEVERAGE,
    judge,
    simultaneous_quantile,
)
from lossatlas.topology.field import (
    CONNECTIVITIES,
    Bools,
    Connectivity,
    Field,
    Floats,
    Ints,
    Source,
    read_field,
)
from lossatlas.topology.image_persistence import image_persistence
from lossatlas.topology.paired import contrast_band


@result("certain-basins")
class CertainBasins(Result):
    """Basins of the true field, whatever it is within the band.

    Attributes:
        minima: flat index of the lowest point of each basin in the upper bound, the deepest
            first. The true minimum lies in the basin, not always at this point.
        births: level by which the basin is there at the latest.
        deaths: level up to which it is cut off from deeper ones at least; +inf for the
            deepest of each connected part.
        confidence: probability with which all of this holds at once.
        why_unknown: why it is unknown which basins are certain; then none is listed. Empty
            where it is known.
        rarest_share: effects that fewer than this share of the units have cannot be
            excluded; see `Diagram`.

    Examples:
        >>> found = certain_basins([3.0, 0.0, 2.0, 1.0, 3.0], error=0.1)
        >>> len(found), found.minima.tolist()
        (2, [1, 3])
    """

    minima: Ints
    births: Floats = quantity("loss")
    deaths: Floats = quantity("loss")
    confidence: float
    why_unknown: str = ""
    rarest_share: float = float("nan")

    def __len__(self) -> int:
        return int(self.minima.size)

    def estimates(self) -> tuple[Estimate, ...]:
        """How many basins are certain."""
        why = self.why_unknown or f"at least so many are real ({100 * self.confidence:g} %)"
        return (Estimate(float(len(self)), why_no_error=why, name="certain basins"),)

    def sentences(self) -> tuple[str, ...]:
        """How many basins are certain, or why that is unknown."""
        if self.why_unknown:
            return (as_sentence(f"Which basins are certain is unknown: {self.why_unknown}"),)
        share = f"{100 * self.confidence:g} %"
        return (f"{count(len(self), 'basin')} cannot come from the errors ({share}).",)


def certain_basins(
    landscape: Source,
    *,
    connectivity: Connectivity = "full",
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
    error: float | None = None,
    units: int | None = None,
    min_share: float | None = MIN_SHARE,
) -> CertainBasins:
    """Count the basins that the errors of the map cannot have made.

    The threshold of a `Diagram` uses one bound for all points, the worst of them. A map is
    often sharp near its center and blurred at its rim, and there this count sees more: with
    a lower and an upper bound at every point, a component of the upper sublevel set counts
    until the lower one joins it to a deeper one (image persistence of degree 0).

    Place by place means to trust each standard error by itself. Where the largest share of
    the variance at some point that one unit (an example, a batch) carries is above 0.3, or
    unknown, few units carry what is known of the map, and units that were not drawn may
    carry as much where it shows no error: then the largest standard error holds for all.

    Args:
        landscape: a landscape with standard errors, or an array with `error`.
        connectivity: "full" or "axis".
        confidence: probability with which the true field lies within the band everywhere.
        replicates: (count, ...) maps that other examples might have given (`replicate_maps`).
            The band is then that of differences from the lowest point of the map, so births
            and deaths are right up to one common error.
        units: how many examples the replicates come from, as for `persistence`.
        min_share: least share of the units whose effects must not be missed, as for
            `persistence`; None or 0: no such rule.
        error: bound on the error of every value of an array; None where it is unknown.

    Returns:
        The certain basins; none, and the reason, where a part of the error is unknown. Where
        the errors are equal everywhere these are the bars longer than the threshold.

    Raises:
        ArgumentError: not an array of real numbers, a confidence outside (0, 1), too few
            replicates for it, replicates on another grid, bad units or a bad share.
        DataError: no finite value.
        UnknownNameError: an unknown connectivity.

    Examples:
        >>> certain_basins([3.0, 0.0, 2.0, 1.0, 3.0], error=0.8).minima
        array([1])
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_fraction("confidence", confidence)
    field = read_field(landscape, replicates, error, units)
    _, reason, share = judge(field, confidence, min_share)
    if reason:
        nothing = np.empty(0)
        none = nothing.astype(np.int64)
        return CertainBasins(none, nothing, nothing, confidence, reason, share)
    band = _band(field, confidence)
    lower, upper = field.values - band, field.values + band
    images = image_persistence(upper, lower, field.finite, connectivity)
    heights = grid_basins(lower, field.finite, connectivity).heights
    minima = np.array(list(images.values()), dtype=np.int64)
    deaths = np.array([heights[e] if kind == 0 else np.inf for kind, e in images])
    births = upper.ravel()[minima]
    order = np.lexsort((minima, births))
    return CertainBasins(minima[order], births[order], deaths[order], confidence, "", share)


def _band(field: Field, confidence: float) -> Floats:
    rest = field.interpolation_error + field.rounding
    if field.errors is not None:
        origin = int(np.argmin(field.values[field.finite]))
        error = np.zeros(field.values.shape)
        error[field.finite] = contrast_band(field.errors, origin, confidence)
        # Both ends of a difference may have been interpolated.
        return error + 2.0 * rest
    if field.stderr is None:
        return np.full(field.values.shape, field.bound + rest)
    known = field.finite & np.isfinite(field.stderr)
    spread = _spread(field.stderr, known)
    if not field.leverage <= MOST_LEVERAGE:
        spread = np.full(spread.shape, spread[field.finite].max())
    return simultaneous_quantile(field, confidence) * spread + rest


def _spread(stderr: Floats, known: Bools) -> Floats:
    # An interpolated point has the sampling error of the points it was made from: the
    # greatest around it, once every gap holds that of the nearest known point.
    nearest = scipy.ndimage.distance_transform_edt(
        ~known, return_distances=False, return_indices=True
    )
    filled = stderr[tuple(nearest)]
    around = np.asarray(
        scipy.ndimage.maximum_filter(filled, size=3, mode="nearest"), dtype=np.float64
    )
    return np.where(known, filled, around)
