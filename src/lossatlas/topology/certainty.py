"""Which bars are real: the stability theorem, applied to the errors of the map."""

import numpy as np

from lossatlas.intervals import t_quantile
from lossatlas.topology.field import Bools, Field, Floats
from lossatlas.topology.paired import oscillation_bound

# Above this share one unit may be all that is known of a point, and what other units would
# have shown there is not.
MOST_LEVERAGE = 0.3
# Means are taken in double precision: a spread this small beside the values is their rounding.
_SAME = 16 * 2.0**-53


def certainty_threshold(field: Field, confidence: float = 0.95) -> tuple[float, str]:
    """The length above which a bar cannot be an effect of the map's errors."""
    reason = why_unknown(field)
    if reason:
        return float("nan"), reason
    rest = field.interpolation_error + field.rounding
    if field.errors is not None:
        return oscillation_bound(field.errors, confidence) + 2.0 * rest, ""
    return 2.0 * (sampling_bound(field, confidence) + rest), ""


def why_unknown(field: Field) -> str:
    """Why no bound on the error of a map is known."""
    if not np.isfinite(field.interpolation_error):
        return "the error of interpolation is unknown"
    if not np.isfinite(field.rounding):
        return "the error of rounding is unknown"
    if field.errors is not None:
        same = np.median(np.ptp(field.errors, axis=1)) <= _SAME * _largest(field)
        return "all replicates are equal, so they show no spread" if same else ""
    if field.stderr is None:
        return "the values come without errors" if np.isnan(field.bound) else ""
    return _why_no_sampling_error(field, field.stderr)


def _why_no_sampling_error(field: Field, stderr: Floats) -> str:
    computed = ~_gaps(field)
    missing = int(np.count_nonzero(computed & field.finite & ~np.isfinite(stderr)))
    if missing or not (computed & field.finite).any():
        return f"{missing:,} of {field.finite.sum():,} values have no standard error"
    if not field.count >= 2:
        return "the number of units behind the standard errors is unknown"
    most = float(stderr[computed & field.finite].max())
    if np.isfinite(field.count) and most * np.sqrt(field.count) <= _SAME * _largest(field):
        return "all units agree at every point, so they show no spread"
    return ""


def _largest(field: Field) -> float:
    return max(map(abs, field.range))


def _gaps(field: Field) -> Bools:
    # Interpolated points may carry no error of their own: their neighbors' holds for them.
    if field.interpolated is None:
        return np.zeros(field.finite.shape, dtype=np.bool_)
    return field.interpolated


def sampling_bound(field: Field, confidence: float = 0.95) -> float:
    """A bound on the sampling error of every point of a map at once."""
    if field.stderr is None:
        return field.bound
    known = field.stderr[field.finite & np.isfinite(field.stderr)]
    return simultaneous_quantile(field, confidence) * float(known.max())


def simultaneous_quantile(field: Field, confidence: float) -> float:
    """How many standard errors hold for all points of a map at once."""
    points = int(np.count_nonzero(field.finite))
    return float(t_quantile(confidence ** (1 / points), field.count))
