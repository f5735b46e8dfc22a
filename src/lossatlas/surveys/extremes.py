"""The extreme points of a map against the weights and each other, on the same examples."""

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.known_values import computed_values
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.plane import Plane, prepare_plane
from lossatlas.objective import Objective
from lossatlas.result import Estimate
from lossatlas.weights.paired import EQUAL, PairedLosses

Sums = NDArray[np.float64]
_LEVEL = 0.95
_NAME = "lowest computed point of the map minus the weights"
_NONE_BELOW = "no computed point lies below the weights"


class Extremes:
    """Paired differences of the extreme computed points of a map.

    Args:
        objective: whose present weights count.
        plane: of the map.
        land: the map.
    """

    def __init__(self, objective: Objective, plane: Plane, land: Landscape) -> None:
        self._objective, self._plane, self._land = objective, plane, land
        self._judged = PairedLosses(objective)
        self._known = computed_values(land)
        self._count = int(np.isfinite(self._known).sum())

    def lowest(self) -> Estimate | None:
        """Loss at the lowest computed point minus that at the present weights.

        Where the map is lowest at an interpolated point, the loss is computed there too.
        Positive where the grid does not hold the weights themselves and all its points lie
        higher.

        Its 95 % interval is that of the paired difference at confidence 1 - 0.05 / points
        (Bonferroni): the lowest of many points is low by luck too.

        Returns:
            The difference, with both ends of its interval or the reason why it has none; 0
            where it is below the rounding of the losses; None for a map without a finite loss.
        """
        if not self._count:
            return None
        land, count, sums = self._land, self._count, [self._lowest]
        interpolated = int(np.where(land.finite, land.values, np.inf).argmin())
        if not land.computed.ravel()[interpolated]:
            # An interpolated minimum may be none: its loss is computed before it is believed.
            sums.append(self._sums(interpolated))
            count += 1
        here = self._judged.sums(self._objective.params)
        gap = self._judged.difference(min(sums, key=_total), here, _NAME, "loss")
        gap = self._simultaneous(gap, count, f"interval for the lowest of {count:,} points")
        return replace(gap, why_no_error=_NONE_BELOW) if gap.why_no_error == EQUAL else gap

    def range(self) -> Estimate | None:
        """Loss at the highest computed point minus that at the lowest.

        Its interval is at confidence 1 - 0.05 / pairs of points, so that it holds for the
        largest of all differences; where it holds 0, the map may be flat.

        Returns:
            The difference, as `lowest` gives it; None for fewer than two finite losses.
        """
        pairs = self._count * (self._count - 1) // 2
        if not pairs:
            return None
        highest = self._sums(int(np.nanargmax(self._known)))
        gap = self._judged.difference(highest, self._lowest, "range of the map", "loss")
        what = f"highest minus lowest; interval for the largest of {pairs:,} differences"
        return self._simultaneous(gap, pairs, what)

    @cached_property
    def _lowest(self) -> Sums:
        return self._sums(int(np.nanargmin(self._known)))

    def _simultaneous(self, gap: Estimate, choices: int, what: str) -> Estimate:
        gap = replace(gap, meaning=f"on the same {self._objective.unit}; {what}")
        if gap.why_no_error is not None:
            return gap
        return replace(gap, ends=gap.interval(1 - (1 - _LEVEL) / choices))

    def _sums(self, flat: int) -> Sums:
        land = self._land
        at = np.unravel_index(flat, land.values.shape)
        where = [float(axis[k]) for axis, k in zip(land.axes, at, strict=True)]
        return self._judged.sums(prepare_plane(self._objective, self._plane).point(where))


def _total(sums: Sums) -> float:
    total = float(sums.sum())
    return total if np.isfinite(total) else np.inf
