"""Is the grid fine enough? Two rules of touching must count the same basins."""

from numpy.typing import ArrayLike

from lossatlas.checks import check_number
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.topology.diagram import MAP_COUNT
from lossatlas.topology.field import Source
from lossatlas.topology.persistence import persistence


@result("resolution")
class Resolution(Result):
    """Basins longer than `threshold`, counted under both rules of touching.

    Attributes:
        full: where diagonal neighbors touch. Too few where a ridge lies between samples.
        axis: where they do not. Too many where a valley runs across the grid at an angle.
        threshold: length above which a basin counts, in units of the field.
        under_resolved: the two counts differ: the picture of the basins is the grid's as
            much as the field's; take more points, or axes along the curvature.

    Examples:
        >>> import numpy as np
        >>> valley = np.where(np.eye(6, dtype=bool), 0.1 * np.arange(6), 1.0)
        >>> found = resolution(valley)
        >>> found.full, found.axis, found.under_resolved
        (1, 6, True)
    """

    full: int
    axis: int
    threshold: float = quantity("loss")
    under_resolved: bool

    def estimates(self) -> tuple[Estimate, ...]:
        """Both counts, and the length above which a basin counts."""
        rows = (
            (float(self.full), "basins, diagonal neighbors touch", MAP_COUNT),
            (float(self.axis), "basins, diagonal neighbors do not touch", MAP_COUNT),
            (self.threshold, "length above which a basin counts", "chosen"),
        )
        return tuple(Estimate(value, why_no_error=why, name=name) for value, name, why in rows)

    def sentences(self) -> tuple[str, ...]:
        """Whether the grid is too coarse for its own findings; nothing where it is not."""
        if not self.under_resolved:
            return ()
        return (
            "The map is under-resolved: the two notions of neighborhood count "
            f"{self.full} and {self.axis} basins; take more points.",
        )


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

    Examples:
        >>> resolution([3.0, 0.0, 2.0, 1.0, 3.0]).under_resolved
        False
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
