"""Scales from losses to heights and colors: linear, or logarithmic above the minimum."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.text import number

Floats = NDArray[np.float64]

# A bowl seen to its corners spans 16 times its lowest tenth; what spans more hides its ground.
STEEP = 30.0


@dataclass(frozen=True)
class Scale:
    """A monotone map from losses to heights.

    Logarithmic scales count from the lowest loss, so that they also serve losses that are
    zero or negative: height = log(1 + (loss - low) / soft).

    Attributes:
        low: lowest finite loss.
        high: highest finite loss, above `low`.
        soft: climb above `low` up to which the scale is nearly straight; infinite: all the way.
    """

    low: float
    high: float
    soft: float = np.inf

    @property
    def is_log(self) -> bool:
        """Whether heights grow with the logarithm of the climb."""
        return bool(np.isfinite(self.soft))

    def forward(self, losses: Floats) -> Floats:
        """Heights of losses.

        Args:
            losses: any shape; NaN stays NaN.

        Returns:
            Heights, same shape; the losses themselves where the scale is straight.
        """
        losses = np.asarray(losses, dtype=np.float64)
        if not self.is_log:
            return losses
        climb = (losses - self.low) / self.soft
        return np.asarray(np.sign(climb) * np.log1p(np.abs(climb)))

    def inverse(self, heights: Floats) -> Floats:
        """Losses of heights.

        Args:
            heights: any shape.

        Returns:
            Losses, same shape.
        """
        heights = np.asarray(heights, dtype=np.float64)
        if not self.is_log:
            return heights
        climb = np.sign(heights) * np.expm1(np.abs(heights))
        return np.asarray(self.low + self.soft * climb)

    def heights(self, count: int) -> Floats:
        """Evenly spaced heights from the lowest to the highest loss.

        Args:
            count: how many.

        Returns:
            Ascending heights.
        """
        bottom, top = self.forward(np.array([self.low, self.high]))
        return np.linspace(bottom, top, count)

    def levels(self, count: int = 15) -> Floats:
        """Losses at which to draw contours.

        Args:
            count: how many.

        Returns:
            Ascending losses, from `low` to `high`; evenly spaced in height.
        """
        levels = self.inverse(self.heights(count))
        # Rounding must not leave the extremes outside the filled contours.
        levels[0], levels[-1] = self.low, self.high
        return levels

    def ticks(self, count: int = 7) -> tuple[Floats, list[str]]:
        """Round losses for an axis or a color bar.

        Args:
            count: about how many.

        Returns:
            Ascending losses and their labels.
        """
        rounded = self._log_ticks(count) if self.is_log else self._straight_ticks(count)
        slack = 1e-9 * (self.high - self.low)
        inside = (rounded >= self.low - slack) & (rounded <= self.high + slack)
        levels = np.unique(rounded[inside])
        levels = levels if levels.size else np.array([self.low, self.high])
        return levels, [number(float(f"{tick:.12g}"), 6) for tick in levels]

    def _straight_ticks(self, count: int) -> Floats:
        rough = (self.high - self.low) / count
        decade = 10.0 ** np.floor(np.log10(rough))
        step = decade * next(k for k in (1, 2, 5, 10) if k * decade >= 0.999 * rough)
        first, last = np.ceil(self.low / step), np.floor(self.high / step)
        return np.asarray(np.arange(first, last + 1) * step)

    def _log_ticks(self, count: int) -> Floats:
        raw = self.inverse(self.heights(count - 1))
        gaps = np.append(np.diff(raw), raw[-1] - raw[-2])
        step = 10.0 ** np.floor(np.log10(gaps))
        rounded = np.round(raw / step)
        rounded[0], rounded[-1] = np.ceil(raw[0] / step[0]), np.floor(raw[-1] / step[-1])
        return np.asarray(rounded * step)


def spanning(low: float, high: float) -> Scale:
    """A linear scale of nonzero width."""
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return Scale(low, high)
    margin = 1e-3 * max(abs(low), 1e-3)
    return Scale(low - margin, high + margin)


def scale_of(values: Floats) -> Scale:
    """The scale that resolves the low losses of a map.

    Args:
        values: losses; those that are not finite are left out.

    Returns:
        A logarithmic scale where the range is more than `STEEP` times the climb of the
        lowest tenth of the map, otherwise a straight one.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Scale(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    straight = spanning(low, high)
    if straight.low < low:
        return straight
    climb = finite[finite > low] - low
    ground = float(np.quantile(climb, 0.1))
    return Scale(low, high, ground / 2 if high - low > STEEP * ground else np.inf)
