"""A spectrum as a picture: the density of eigenvalues with the extreme ones marked."""

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.chart import Axis, Chart, Layer, Line, band
from lossatlas.plots.rows import Dots, dot_layers

Floats = NDArray[np.float64]
# Below this share of its peak a density is smoothing and rounding.
_FLOOR = 1e-7


def spectrum_chart(
    values: Floats, errors: Floats, grid: Floats, density: Floats, stderr: Floats
) -> Chart:
    """The density of eigenvalues on a logarithmic axis, and dots for the extreme ones.

    Args:
        values: eigenvalues that were found one by one.
        errors: their error bounds.
        grid: where the density is known; empty where there is none.
        density: the density there.
        stderr: its standard error; NaN where unknown.

    Returns:
        The chart.
    """
    layers: list[Layer] = []
    limits, level = (_FLOOR, 10.0), 1.0
    if grid.size:
        # One probe has no spread: the band is then unknown and not drawn.
        peak = float(density.max())
        top = float(np.fmax(density, density + stderr).max())
        limits, level = (top * _FLOOR, 3 * top), peak * _FLOOR**0.5
        # Far below the axis: a density that vanishes leaves the picture.
        low, middle, high = (
            np.maximum(row, peak * _FLOOR**2)
            for row in (density - stderr, density, density + stderr)
        )
        if np.isfinite(high).all():
            layers.append(band(grid, low, high, "± 1 standard error"))
        layers.append(Line(grid, middle, color=style.BASIN, width=1.7, name="density"))
    dots = Dots("extreme eigenvalues", values, errors)
    layers += dot_layers(dots, np.full(len(values), level), style.PATH)
    x = Axis("eigenvalue (loss per squared weight)")
    y = Axis("density of eigenvalues", limits=limits, is_log=True)
    return Chart("Spectrum", x, y, tuple(layers), size=(5.4, 3.6))
