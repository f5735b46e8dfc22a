"""A spectrum as a picture: the density of eigenvalues with the extreme ones marked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.text import number

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
_EIGENVALUE = "eigenvalue (loss per squared weight)"
_DENSITY = "density of eigenvalues"
_BAND, _EXTREMES = "± 1 standard error", "extreme eigenvalues"
# Below this share of its peak a density is smoothing and rounding.
_FLOOR = 1e-7


@dataclass(frozen=True, eq=False)
class SpectrumData:
    """What is drawn of a spectrum.

    Attributes:
        values: eigenvalues that were found one by one.
        errors: their error bounds.
        grid: where the density is known; empty where there is none.
        density: the density there.
        stderr: its standard error; NaN where unknown.
    """

    values: Floats
    errors: Floats
    grid: Floats
    density: Floats
    stderr: Floats

    def draw(self, ax: "Axes | None") -> "Axes":
        """With matplotlib; heights are logarithmic."""
        from lossatlas.plots import canvas

        ax = canvas.axes(ax, (5.4, 3.6))
        if self.grid.size:
            low, middle, high = self._band()
            if np.isfinite(high).all():
                ax.fill_between(self.grid, low, high, color=style.SHARED, lw=0, label=_BAND)
            ax.plot(self.grid, middle, color=style.BASIN, lw=1.2, label="density")
            ax.set_yscale("log")
            ax.set_ylim(*self._heights())
        look: Any = {"fmt": "o", "ms": 4, "color": style.PATH, "label": _EXTREMES}
        ax.errorbar(self.values, self._level(), xerr=np.nan_to_num(self.errors), **look)
        canvas.name_axes(ax, "Spectrum", _EIGENVALUE, _DENSITY)
        canvas.legend(ax)
        return ax

    def plotly(self) -> "go.Figure":
        """With plotly, every eigenvalue to point at."""
        from lossatlas.plots import web
        from lossatlas.plots.bands import add_band

        figure = web.figure()
        if self.grid.size:
            low, middle, high = self._band()
            if np.isfinite(high).all():
                color = style.translucent(style.SHARED, 0.7)
                add_band(figure, self.grid, (low, high), _BAND, color)
            line = {"color": style.BASIN}
            figure.add_scatter(
                x=self.grid, y=middle, line=line, hoverinfo="skip", name="density"
            )
        pairs = zip(self.values, self.errors, strict=True)
        figure.add_scatter(
            x=self.values,
            y=self._level(),
            error_x={"array": self.errors, "color": style.PATH},
            mode="markers",
            marker={"color": style.PATH, "size": 8},
            text=[f"{number(v)} ± {number(e, 2)}" for v, e in pairs],
            hovertemplate="%{text}<extra></extra>",
            name=_EXTREMES,
        )
        ends = np.log10(self._heights()).tolist()
        figure.update_layout(
            xaxis=web.axis(_EIGENVALUE),
            yaxis=web.axis(_DENSITY, type="log", exponentformat="power", dtick=2, range=ends),
        )
        return figure

    def _band(self) -> tuple[Floats, Floats, Floats]:
        # Far below the axis: a density that vanishes leaves the picture.
        floor = float(self.density.max()) * _FLOOR**2
        low, high = (self.density - self.stderr, self.density + self.stderr)
        return np.maximum(low, floor), np.maximum(self.density, floor), np.maximum(high, floor)

    def _level(self) -> Floats:
        height = float(self.density.max()) * _FLOOR**0.5 if self.grid.size else 1.0
        return np.full(len(self.values), height)

    def _heights(self) -> tuple[float, float]:
        if not self.grid.size:
            return _FLOOR, 10.0
        # One probe has no spread: the band is then unknown and not drawn.
        top = float(np.fmax(self.density, self.density + self.stderr).max())
        return top * _FLOOR, 3 * top
