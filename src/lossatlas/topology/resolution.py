"""Is the grid fine enough? Two rules of touching must count the same basins."""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from lossatlas.checks import check_number
from lossatlas.topology.field import Source
from lossatlas.topology.persistence import persistence


@dataclass(frozen=True)
class Resolution:
    """Basins longer than `threshold`, counted under both rules of touching.

    Attributes:
        full: where diagonal neighbors touch. Too few where a ridge runs between samples.
        axis: where they do not. Too many where a valley runs across the grid at an angle.
        threshold: length above which a basin counts, in units of the field.
        under_resolved: the two counts differ: the picture of the basins is the grid's as
            much as the field's; take more points, or axes along the curvature.
    """

    full: int
    axis: int
    threshold: float
    under_resolved: bool


def resolution(
    landscape: Source,
    *,
    floor: float = 0.01,
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
) -> Resolution:
    """Count the basins that matter under both connectivities.

    Args:
        landscape: a landscape or an array.
        floor: basins shorter than this share of the range never count.
        confidence: of the certainty threshold; the greater of the two thresholds is used,
            the floor alone where the errors of the map are unknown.
        replicates: as for `persistence`.

    Returns:
        Both counts and the verdict.

    Raises:
        ArgumentError: a negative `floor`, or what `persistence` refuses.
    """
    check_number("floor", floor, 0)
    counts = {}
    threshold = 0.0
    for connectivity in ("full", "axis"):
        diagram = persistence(
            landscape,
            connectivity=connectivity,
            dimensions=(0,),
            confidence=confidence,
            replicates=replicates,
            min_share=None,
        )
        threshold = floor * (diagram.high - diagram.low)
        if not diagram.why_unknown:
            threshold = max(diagram.threshold, threshold)
        counts[connectivity] = int((diagram.lengths > threshold).sum())
    full, axis = counts["full"], counts["axis"]
    return Resolution(full, axis, threshold, full != axis)
