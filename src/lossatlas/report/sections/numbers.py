"""Numbers that more than one section shows, each with its error or the reason for none."""

import math

import numpy as np

from lossatlas.landscape.landscape import Landscape
from lossatlas.report.contents import Number
from lossatlas.result import Estimate
from lossatlas.text import cut_off, number

COUNT = "a count, exact"
MAP_COUNT = "exact for this map, which has errors of its own"
GEOMETRY = "exact geometry, no sampling"


def measured(name: str, found: Estimate, meaning: str) -> Estimate:
    """A mean over the data."""
    why = found.why_no_error or ("" if math.isfinite(found.stderr) else "not estimated")
    return Number(cut_off(name), found.value, found.stderr, why, meaning=meaning)


def mapped(landscape: Landscape, name: str, flat: int) -> Estimate:
    """A value of a map."""
    index = np.unravel_index(flat, landscape.values.shape)
    place = ", ".join(
        number(float(axis[i]), 3) for axis, i in zip(landscape.axes, index, strict=True)
    )
    why = "the map has no standard errors"
    if not landscape.computed.ravel()[flat]:
        bound = number(landscape.interpolation_error, 2)
        why = f"interpolated, to within {bound} (95 % bound)"
    value, stderr = landscape.values.ravel()[flat], landscape.stderr.ravel()[flat]
    return Number(name, float(value), float(stderr), why, meaning=f"at ({place})")
