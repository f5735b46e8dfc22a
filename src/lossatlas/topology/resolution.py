"""Check the grid resolution: both connectivities must count the same basins."""

from numpy.typing import ArrayLike

from lossatlas.checks import check_number
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.topology.diagram import MAP_COUNT
from lossatlas.topology.field import Source
from lossatlas.topology.persistence import persistence


@result("resolution")
class Resolution(Result):
    """Basins longer than `threshold`, counted with both connectivities.

    Attributes:
        full: count if diagonal neighbors touch; too low if a ridge lies between samples.
        axis: count if they do not; too high if a valley is oblique to the grid.
        threshold: length above which a basin counts, in units of the field.
        under_resolved: whether the two counts differ. The basins then depend on the grid as
            much as on the field; use more points, or axes along the curvature.

    Examples:
        >>> import numpy as np
        >>> valley = np.where(np.eye(6, dtype=bool), 0.1 * np.arange(6), 1.0)
        >>> check = resolution(valley)
        >>> check.full, check.axis, check.under_resolved
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
        """Whether the grid is too coarse for its basins; empty if it is not."""
        if not self.under_resolved:
            return ()
        return (
            f"The map is under-resolved: the two connectivities count {self.full} and "
            f"{self.axis} basins; use more points.",
        )


def resolution(
    landscape: Source,
    *,
    floor: float = 0.01,
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
) -> Resolution:
    """Count the significant basins with both connectivities.

    Args:
        landscape: a landscape or an array.
        floor: basins shallower than this share of the range never count.
        confidence: confidence of the certainty threshold. The larger of this threshold and the
            floor is used, or the floor alone if the errors of the map are unknown.
        replicates: as for `persistence`.

    Returns:
        Both counts, and whether they differ.

    Raises:
        ArgumentError: `floor` is negative, or `persistence` rejects an argument.

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
