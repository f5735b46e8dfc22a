"""Which bars are real: the stability theorem, applied to the errors of the map."""

import math
from typing import NamedTuple

import numpy as np

from lossatlas.checks import check_fraction, is_number
from lossatlas.intervals import t_quantile
from lossatlas.topology.field import Bools, Field, Floats
from lossatlas.topology.paired import oscillation_bound

# Above this share a single unit may determine the variance at a point, so other units could
# differ there unseen.
MAX_LEVERAGE = 0.3
# A sample that certifies contains, at 95 %, effects present in at least this share of the
# units. It takes 119 units; of such samples 2.7 % miss a share of 3 % (docs/studies/certainty).
MIN_SHARE = 0.025


class Certainty(NamedTuple):
    """Certainty threshold for the bars of a map.

    Attributes:
        threshold: length above which a bar is certain; NaN if unknown.
        why_unknown: why it is unknown; empty if it is known.
        rarest_share: effects present in a smaller share of the units may be missing from the
            map; 0 if its errors are exact, NaN if the number of units is unknown.
    """

    threshold: float
    why_unknown: str = ""
    rarest_share: float = float("nan")


def judge(field: Field, confidence: float, min_share: float | None) -> Certainty:
    """Certainty threshold of a map, or why it is unknown, and the rarest detectable effect."""
    share = rarest_share(field.count, confidence)
    reason = why_unknown(field)
    # Computed even if too few units mask it, so that invalid replicates always raise.
    bound = float("nan") if reason else certainty_threshold(field, confidence)
    reason = reason or why_too_few(field.count, confidence, min_share)
    return Certainty(float("nan") if reason else bound, reason, share)


def rarest_share(units: float, confidence: float = 0.95) -> float:
    """Smallest share of units of which a sample contains at least one, at some confidence."""
    if not units >= 1:
        return float("nan")
    return -math.expm1(math.log1p(-confidence) / units)


def rarest_sentence(share: float, units: float, noun: str = "examples") -> str:
    """Sentence on effects too rare for a sample to show."""
    if not share > 0:
        return ""
    return (
        f"Effects in fewer than {100 * share:.2g} % of the {noun} cannot be excluded: at least "
        f"one in 20 samples of {units:,.0f} {noun} contains none of them."
    )


def check_min_share(min_share: float | None) -> None:
    """Require None, 0 or a share below 1."""
    if min_share is not None and not (is_number(min_share) and min_share == 0):
        check_fraction("min_share", min_share)


def why_too_few(units: float, confidence: float, min_share: float | None) -> str:
    """Why a sample is too small to certify: it may contain no unit of a rare kind."""
    check_min_share(min_share)
    share = rarest_share(units, confidence)
    if not min_share or share <= min_share:
        return ""
    if math.isnan(share):
        return (
            "the number of units (examples, batches) behind the errors is unknown; state it "
            "as `units`"
        )
    need = math.ceil(math.log1p(-confidence) / math.log1p(-min_share))
    return (
        f"too few examples to certify: {units:,.0f} units may miss effects in fewer than "
        f"{share:.2g} of all, and {min_share:g} (`min_share`) takes {need:,}; "
        "min_share=0 switches this rule off"
    )


def certainty_threshold(field: Field, confidence: float = 0.95) -> float:
    """Length above which a bar cannot be caused by the errors of the map."""
    numerical = field.interpolation_error + field.rounding
    if field.errors is not None:
        return oscillation_bound(field.errors, confidence) + 2.0 * numerical
    return 2.0 * (sampling_bound(field, confidence) + numerical)


def why_unknown(field: Field) -> str:
    """Why the error bound of a map is unknown; empty if it is known."""
    if not np.isfinite(field.interpolation_error):
        return "the error of interpolation is unknown"
    if not np.isfinite(field.rounding):
        return "the error of rounding is unknown"
    if field.errors is not None:
        same = np.median(np.ptp(field.errors, axis=1)) <= _rounding_of_means(field)
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
    largest = float(stderr[computed & field.finite].max())
    if np.isfinite(field.count) and largest * np.sqrt(field.count) <= _rounding_of_means(field):
        return "all units agree at every point, so they show no spread"
    return ""


def _rounding_of_means(field: Field) -> float:
    # Means are computed in double precision; each added unit may round once more.
    units = max(16.0, field.count) if np.isfinite(field.count) else 16.0
    return units * 2.0**-53 * max(map(abs, field.range))


def _gaps(field: Field) -> Bools:
    # Interpolated points may have no standard error; that of their neighbors applies.
    if field.interpolated is None:
        return np.zeros(field.finite.shape, dtype=np.bool_)
    return field.interpolated


def sampling_bound(field: Field, confidence: float = 0.95) -> float:
    """Simultaneous bound on the sampling error at all points of a map."""
    if field.stderr is None:
        return field.bound
    errors = field.stderr[field.finite & np.isfinite(field.stderr)]
    return simultaneous_quantile(field, confidence) * float(errors.max())


def simultaneous_quantile(field: Field, confidence: float) -> float:
    """Number of standard errors that holds simultaneously for all points of a map."""
    points = int(np.count_nonzero(field.finite))
    return float(t_quantile(confidence ** (1 / points), field.count))
