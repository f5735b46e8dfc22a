"""A landscape under light on a dark ground, as pixels: the frames of films."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.grid import Floats, Grid, finite_values, landmarks, values_at
from lossatlas.plots.scale import Scale

_GROUND, _INK = "#0d1822", "#e8eff3"
_RISE, _LIFT, _PATH = 0.62, 0.015, "#ff7f2a"
_DPI, _MOST = 100, 90


class Relief:
    """Draws maps of one scale into pictures of one size.

    Args:
        scale: how losses become heights and colors.
        width: of a picture, in pixels.
    """

    def __init__(self, scale: Scale, width: int) -> None:
        self._scale = scale
        self._figure = Figure(figsize=(width / _DPI, 0.75 * width / _DPI), dpi=_DPI)
        self._canvas: Any = FigureCanvasAgg(self._figure)
        self._colors = LinearSegmentedColormap.from_list("relief", list(style.RELIEF))

    def image(
        self, grid: Grid, weights: Floats, *, azimuth: float, title: str = ""
    ) -> NDArray[np.uint8]:
        """One picture.

        Args:
            grid: a map of a plane.
            weights: coordinates of the weights.
            azimuth: from where it is seen, in degrees.
            title: a line of text.

        Returns:
            (height, width, 3) colors.
        """
        self._figure.clear()
        self._figure.set_facecolor(_GROUND)
        ax: Any = self._figure.add_axes((-0.12, -0.16, 1.24, 1.26), projection="3d")
        ax.set_axis_off()
        ax.patch.set_alpha(0)
        ax.computed_zorder = False
        self._surface(ax, grid, azimuth)
        self._path(ax, grid, weights)
        ax.view_init(elev=46, azim=azimuth)
        ax.set_box_aspect((1, 1, _RISE))
        ax.set_zlim(0, 1)
        text = self._figure.text(0.03, 0.93, title, color=_INK, fontsize=11)
        text.set_parse_math(False)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _heights(self, losses: Floats) -> Floats:
        bottom, top = self._scale.heights(2)
        return np.asarray((self._scale.forward(losses) - bottom) / ((top - bottom) or 1.0))

    def _surface(self, ax: Any, grid: Grid, azimuth: float) -> None:
        axes, heights = _finer(grid.axes, self._heights(finite_values(grid)))
        x, y = np.meshgrid(*axes, indexing="ij")
        light = LightSource(azdeg=90 - azimuth - 50, altdeg=42)
        filled = np.where(np.isfinite(heights), heights, np.nanmax(heights))
        steps = [1 / max(n - 1, 1) for n in heights.shape]
        # Rows of the shaded array run along the first axis, which is the east of the light.
        shades = light.shade_rgb(
            self._colors(filled)[..., :3].transpose(1, 0, 2),
            filled.T * _RISE, vert_exag=1.6, dx=steps[0], dy=steps[1], blend_mode="soft",
        ).transpose(1, 0, 2)  # fmt: skip
        look: Any = {"rcount": _MOST, "ccount": _MOST, "linewidth": 0, "antialiased": False}
        ax.plot_surface(x, y, heights, facecolors=np.clip(shades, 0, 0.97), shade=False, **look)
        levels = np.linspace(0.05, 0.95, 12)
        lines: Any = {"colors": _INK, "linewidths": 0.5, "alpha": 0.45}
        ax.contour(x, y, np.ma.masked_invalid(heights) + _LIFT / 3, levels=levels, **lines)

    def _path(self, ax: Any, grid: Grid, weights: Floats) -> None:
        for mark in landmarks(grid):
            if mark.is_path:
                x, y = mark.points.T
                ax.plot(x, y, self._heights(mark.below) + _LIFT, color=_PATH, lw=1.8, zorder=9)
        height = self._heights(values_at(grid, weights[None])) + 2 * _LIFT
        place: Any = ([weights[0]], [weights[1]], height)
        ax.plot(*place, "*", ms=13, mfc=_PATH, mec="white", mew=0.8, zorder=10)


def _finer(axes: Sequence[Floats], heights: Floats) -> tuple[list[Floats], Floats]:
    # Facets of a coarse grid would catch the light one by one.
    from scipy.ndimage import zoom

    if not np.isfinite(heights).all():
        return list(axes), heights
    sizes = [max(n, _MOST) for n in heights.shape]
    shares = [size / n for size, n in zip(sizes, heights.shape, strict=True)]
    fine = [np.linspace(a[0], a[-1], size) for a, size in zip(axes, sizes, strict=True)]
    return fine, np.asarray(zoom(heights, shares, order=1 if min(heights.shape) < 4 else 3))
