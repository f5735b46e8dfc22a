"""A curve with its band on two logarithmic axes, and the limit that it has to reach."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """A positive curve.

    Attributes:
        x: positive, ascending.
        y: the curve.
        low: lower end of its band; where it is not finite the curve itself is the end.
        high: upper end.
        limit: a level that is marked.
        title: heading.
        axes: titles of both axes.
        names: of curve, band and limit, for the legend.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats
    limit: float
    title: str
    axes: tuple[str, str]
    names: tuple[str, str, str]

    def draw(self, ax: "Axes | None") -> "Axes":
        """With matplotlib."""
        from lossatlas.plots import canvas

        ax = canvas.axes(ax, (5.4, 3.6))
        low, high = self._edges()
        curve, band, limit = self.names
        ax.fill_between(self.x, low, high, color=style.SHARED, lw=0, label=band)
        ax.plot(self.x, self.y, "o-", ms=3, lw=1.2, color=style.BASIN, label=curve)
        ax.axhline(self.limit, ls="--", lw=0.9, color=style.PATH, label=limit)
        ax.set_xscale("log")
        ax.set_yscale("log")
        canvas.name_axes(ax, self.title, *self.axes)
        canvas.legend(ax)
        return ax

    def plotly(self) -> "go.Figure":
        """With plotly."""
        from lossatlas.plots import web
        from lossatlas.plots.logs import log_axis

        low, high = self._edges()
        curve, band, limit = self.names
        figure = web.figure(380)
        add_band(figure, self.x, (low, high), band, style.translucent(style.BASIN, 0.18))
        figure.add_scatter(
            x=self.x,
            y=self.y,
            mode="lines+markers",
            line={"color": style.BASIN, "width": 2},
            hovertemplate="%{x}: %{y:.3g}<extra></extra>",
            name=curve,
        )
        dashed = {"color": style.PATH, "width": 1, "dash": "dash"}
        figure.add_hline(y=self.limit, line=dashed)
        figure.add_scatter(x=[None], y=[None], mode="lines", line=dashed, name=limit)
        figure.update_layout(
            xaxis=log_axis(self.axes[0], self.x),
            yaxis=log_axis(self.axes[1], [*high, *low, self.limit]),
        )
        return figure

    def _edges(self) -> tuple[Floats, Floats]:
        low, high = (np.where(np.isfinite(e), e, self.y) for e in (self.low, self.high))
        return low, high


def add_band(
    figure: "go.Figure", x: Floats, ends: tuple[Floats, Floats], name: str, color: str
) -> None:
    """A filled band between two curves, in a plotly figure."""
    low, high = ends
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=color,
        line={"width": 0},
        hoverinfo="skip",
        name=name,
    )
