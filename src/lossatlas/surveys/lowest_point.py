"""How far the lowest point of a map lies below the weights, on the same examples."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.known_values import computed_values
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.plane import Plane, settled
from lossatlas.objective import Objective
from lossatlas.result import Estimate
from lossatlas.weights.paired import EQUAL, PairedLosses

_LEVEL = 0.95
_NAME = "lowest computed point of the map minus the weights"
_NONE_BELOW = "no computed point lies below the weights"


def lowest_difference(objective: Objective, plane: Plane, land: Landscape) -> Estimate | None:
    """Loss at the lowest computed point of a map minus that at the present weights.

    Where the map is lowest at an interpolated point, the loss is computed there too. Positive
    where the grid does not hold the weights themselves and all its points lie higher.

    Its 95 % interval is that of the paired difference at confidence 1 - 0.05 / points
    (Bonferroni): the lowest of many points is low by luck too.

    Args:
        objective: whose present weights count.
        plane: of the map.
        land: the map.

    Returns:
        The difference, with both ends of its interval or the reason why it has none; 0 where
        it is below the rounding of the losses; None for a map without a finite loss.
    """
    known = computed_values(land)
    count = int(np.isfinite(known).sum())
    if not count:
        return None
    places = [int(np.nanargmin(known))]
    lowest = int(np.where(land.finite, land.values, np.inf).argmin())
    if not land.computed.ravel()[lowest]:
        # An interpolated minimum may be none: its loss is computed before it is believed.
        places.append(lowest)
        count += 1
    judged = PairedLosses(objective)
    here = judged.sums(objective.params)
    on_plane = settled(objective, plane)
    sums = [judged.sums(on_plane.point(_where(land, place))) for place in places]
    there = min(sums, key=_total)
    gap = judged.difference(there, here, _NAME, "loss")
    meaning = f"on the same {objective.unit}; interval for the lowest of {count:,} points"
    gap = replace(gap, meaning=meaning)
    if gap.why_no_error == EQUAL:
        return replace(gap, why_no_error=_NONE_BELOW)
    if gap.why_no_error is not None:
        return gap
    return replace(gap, ends=gap.interval(1 - (1 - _LEVEL) / count))


def _where(land: Landscape, flat: int) -> list[float]:
    at = np.unravel_index(flat, land.values.shape)
    return [float(axis[k]) for axis, k in zip(land.axes, at, strict=True)]


def _total(sums: NDArray[np.float64]) -> float:
    total = float(sums.sum())
    return total if np.isfinite(total) else np.inf
