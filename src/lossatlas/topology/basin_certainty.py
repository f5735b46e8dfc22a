"""Basins that every field within the error band must have, with pointwise errors."""

import numpy as np
import scipy
from numpy.typing import ArrayLike

from lossatlas.checks import check_fraction, check_one_of
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.text import as_sentence, count
from lossatlas.topology.basins import grid_basins
from lossatlas.topology.certainty import (
    MAX_LEVERAGE,
    MIN_SHARE,
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
    """Basins that every field within the error band has.

    Attributes:
        minima: flat index of the lowest point of each basin in the upper bound, deepest first.
            The true minimum lies in the basin, though not always at this point.
        births: highest level at which the basin can appear.
        deaths: lowest level at which it can merge with a deeper one; +inf for the deepest basin
            of each connected part.
        confidence: probability that all of this holds at once.
        why_unknown: why the certain basins are unknown, in which case none is listed; otherwise
            empty.
        rarest_share: effects present in less than this share of the units cannot be excluded;
            see `Diagram`.

    Examples:
        >>> basins = certain_basins([3.0, 0.0, 2.0, 1.0, 3.0], error=0.1)
        >>> len(basins), basins.minima.tolist()
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
        """Number of certain basins, or why it is unknown."""
        if self.why_unknown:
            return (as_sentence(f"Which basins are certain is unknown: {self.why_unknown}"),)
        share = f"{100 * self.confidence:g} %"
        basins = count(len(self), "basin")
        return (f"Errors alone cannot produce {basins} ({share} confidence).",)


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
    """Find the basins that the errors of the map cannot have produced.

    The threshold of a `Diagram` applies the largest error bound to all points. A map is often
    precise near its center and noisy near its edge; this function then finds more basins. It
    uses a lower and an upper bound at every point: a component of the upper bound's sublevel
    set counts until the lower bound's sublevel set joins it to a deeper one (image persistence
    of degree 0).

    Pointwise bounds rely on each standard error individually. If one unit (an example, a batch)
    contributes more than 0.3 of the variance at some point, or if that share is unknown, units
    that were not drawn could contribute as much where the map shows no error. The largest
    standard error is then used at all points.

    Args:
        landscape: a landscape with standard errors, or an array with `error`.
        connectivity: "full" or "axis".
        confidence: probability that the true field lies within the band everywhere.
        replicates: (count, ...) maps that other samples might have given (`replicate_maps`).
            The band then applies to differences from the lowest point of the map, so births and
            deaths hold up to one common error.
        units: number of examples behind the replicates, as for `persistence`.
        min_share: smallest share of the units whose effects must not be missed, as for
            `persistence`; None or 0 disables the rule.
        error: bound on the error of every value of an array; None if unknown.

    Returns:
        The certain basins; none, with the reason, if part of the error is unknown. If the
        errors are equal everywhere, these are the bars longer than the threshold.

    Raises:
        ArgumentError: the input is not an array of real numbers, `confidence` is outside (0, 1)
            or needs more replicates, the replicates are on another grid, or `units` or
            `min_share` is invalid.
        DataError: there is no finite value.
        UnknownNameError: the connectivity is unknown.

    Examples:
        >>> certain_basins([3.0, 0.0, 2.0, 1.0, 3.0], error=0.8).minima
        array([1])
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_fraction("confidence", confidence)
    field = read_field(landscape, replicates, error, units)
    _, reason, share = judge(field, confidence, min_share)
    if reason:
        no_levels = np.empty(0)
        no_minima = no_levels.astype(np.int64)
        return CertainBasins(no_minima, no_levels, no_levels, confidence, reason, share)
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
    numerical = field.interpolation_error + field.rounding
    if field.errors is not None:
        origin = int(np.argmin(field.values[field.finite]))
        error = np.zeros(field.values.shape)
        error[field.finite] = contrast_band(field.errors, origin, confidence)
        # Both ends of a difference may have been interpolated.
        return error + 2.0 * numerical
    if field.stderr is None:
        return np.full(field.values.shape, field.bound + numerical)
    has_stderr = field.finite & np.isfinite(field.stderr)
    spread = _spread(field.stderr, has_stderr)
    if not field.leverage <= MAX_LEVERAGE:
        spread = np.full(spread.shape, spread[field.finite].max())
    return simultaneous_quantile(field, confidence) * spread + numerical


def _spread(stderr: Floats, has_stderr: Bools) -> Floats:
    # An interpolated point has the sampling error of the points it was made from: the
    # greatest around it, once every gap holds that of the nearest known point.
    nearest = scipy.ndimage.distance_transform_edt(
        ~has_stderr, return_distances=False, return_indices=True
    )
    filled = stderr[tuple(nearest)]
    around = np.asarray(
        scipy.ndimage.maximum_filter(filled, size=3, mode="nearest"), dtype=np.float64
    )
    return np.where(has_stderr, filled, around)
