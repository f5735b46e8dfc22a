"""Barcodes as features: a scikit-learn transformer."""

from collections.abc import Sequence, Sized
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import DataError
from lossatlas.topology.bars import Bars, Essential, finite_bars
from lossatlas.topology.curves import (
    betti_curve,
    persistence_image,
    persistence_landscape,
    silhouette,
)
from lossatlas.topology.field import Floats
from lossatlas.topology.summaries import statistics

KINDS = ("betti", "landscape", "silhouette", "image", "statistics")


class BarcodeFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Convert barcodes to vectors of fixed length, with ranges learned from the training set.

    Args:
        kind: "betti", "landscape", "silhouette", "image" or "statistics".
        dimension: degree of the bars.
        resolution: number of levels, or of pixels per side.
        depth: number of functions of a "landscape".
        power: weight of a bar in a "silhouette": its length to this power.
        essential: the rule for essential bars ("drop", "cap", a level).

    Attributes:
        births_: smallest and largest birth seen by `fit`.
        levels_: the levels at which functions are sampled.
        longest_: length of the longest bar seen by `fit`.
        n_features_out_: length of the vectors.

    Examples:
        >>> import numpy as np
        >>> bars = [np.array([[0.0, 1.0]]), np.array([[0.0, 3.0], [1.0, 2.0]])]
        >>> BarcodeFeatures("betti", resolution=4).fit_transform(bars)
        array([[1., 0., 0., 0.],
               [1., 2., 1., 0.]])
    """

    def __init__(
        self,
        kind: str = "betti",
        *,
        dimension: int = 0,
        resolution: int = 50,
        depth: int = 3,
        power: float = 1.0,
        essential: Essential | float = "drop",
    ) -> None:
        self.kind = kind
        self.dimension = dimension
        self.resolution = resolution
        self.depth = depth
        self.power = power
        self.essential = essential

    def fit(self, X: Sequence[Bars], y: Any = None) -> Self:  # noqa: N803
        """Learn the ranges of births, levels and lengths."""
        check_one_of("kind", self.kind, KINDS)
        check_at_least("resolution", self.resolution, 1)
        if not isinstance(X, Sized) or len(X) == 0:
            raise DataError("`X` must hold at least one diagram; got none.")
        barcodes = [finite_bars(diagram, self.dimension, self.essential) for diagram in X]
        bars = np.concatenate([*barcodes, np.empty((0, 2))])
        low, high = (bars.min(), bars.max()) if len(bars) else (0.0, 1.0)
        births = bars[:, 0] if len(bars) else np.array([0.0, 1.0])
        self.levels_ = np.linspace(low, high, self.resolution)
        self.births_ = _widened(float(births.min()), float(births.max()), high - low)
        self.longest_ = float((bars[:, 1] - bars[:, 0]).max(initial=0.0)) or 1.0
        self.n_features_out_ = self._vector(np.empty((0, 2))).size
        return self

    def transform(self, X: Sequence[Bars]) -> Floats:  # noqa: N803
        """Convert barcodes to rows of features."""
        check_is_fitted(self, "levels_")
        rows = [self._vector(finite_bars(d, self.dimension, self.essential)) for d in X]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.n_features_out_)

    def _vector(self, bars: Floats) -> Floats:
        match self.kind:
            case "betti":
                return betti_curve(bars, self.levels_).astype(np.float64)
            case "landscape":
                return persistence_landscape(bars, self.levels_, depth=self.depth).ravel()
            case "silhouette":
                return silhouette(bars, self.levels_, power=self.power)
            case "image":
                return persistence_image(
                    bars,
                    births=self.births_,
                    lengths=(0.0, self.longest_),
                    pixels=(self.resolution, self.resolution),
                ).ravel()
            case _:
                return np.array(list(statistics(bars).values()))


def _widened(low: float, high: float, scale: float) -> tuple[float, float]:
    # Pixels need a positive area even if all births are equal (Rips, degree 0).
    if high > low:
        return low, high
    return low - 0.5 * (scale or 1.0), low + 0.5 * (scale or 1.0)
