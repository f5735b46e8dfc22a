"""Numbers in rows: a dot with its error bar for each, on one axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.text import cut_off, number, safe

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
MAX_ROWS = 40
_COLORS = (style.BASIN, style.PATH, style.RIDGE)


@dataclass(frozen=True, eq=False)
class Dots:
    """One series: a number for each row.

    Attributes:
        name: for the legend.
        values: numbers; on a logarithmic axis those above 0 are drawn.
        errors: their errors; no bar where one is not finite.
    """

    name: str
    values: Floats
    errors: Floats


@dataclass(frozen=True, eq=False)
class Rows:
    """Named rows with one dot a series.

    Attributes:
        names: of the rows, from top to bottom. Never trusted as markup.
        series: what is drawn in each.
        title: heading.
        axis: title of the axis of values.
        log: whether that axis is logarithmic.
        limit: a value that is marked by a line; what lies beyond is shaded.
        sides: texts left and right of that line.
    """

    names: Sequence[str]
    series: Sequence[Dots]
    title: str
    axis: str
    log: bool = False
    limit: float | None = None
    sides: tuple[str, str] = ("", "")

    def draw(self, ax: "Axes | None") -> "Axes":
        """With matplotlib."""
        from lossatlas.plots import canvas

        ax = canvas.axes(ax, (5.4, 1.2 + 0.22 * max(len(self.names), 3)))
        for color, dots in zip(_COLORS, self.series, strict=False):
            rows, values, errors = self._shown(dots)
            look: Any = {"fmt": "o", "ms": 4, "color": color, "label": dots.name}
            ax.errorbar(values, rows, xerr=np.nan_to_num(errors), **look)
        if self.log:
            ax.set_xscale("log")
        if self.limit is not None:
            ax.axvline(self.limit, color=style.INK, lw=0.8)
            low, high = self._ends()
            ax.axvspan(self.limit, high, color=style.BAND, lw=0, zorder=0)
            ax.set_xlim(low, high)
            for side, text in zip(("right", "left"), self.sides, strict=True):
                place: Any = {"xytext": (0, -2), "textcoords": "offset points", "va": "top"}
                size = canvas.font(-2)
                ends = (self.limit, 1), ("data", "axes fraction")
                ax.annotate(text, ends[0], xycoords=ends[1], ha=side, fontsize=size, **place)
        ax.set_yticks(np.arange(len(self.names)), [cut_off(name, 28) for name in self.names])
        ax.set_ylim(len(self.names) - 0.5, -0.5 if self.limit is None else -1.2)
        canvas.name_axes(ax, self.title, self.axis, "")
        for label in ax.get_yticklabels():
            label.set_parse_math(False)
        if len(self.series) > 1:
            canvas.legend(ax)
        return ax

    def plotly(self) -> "go.Figure":
        """With plotly; the height grows with the number of rows."""
        from lossatlas.plots import web

        margin = {"l": 72, "r": 24, "t": 40, "b": 96 if len(self.series) > 1 else 72}
        figure = web.figure(176 + 22 * len(self.names), margin=margin)
        for color, dots in zip(_COLORS, self.series, strict=False):
            rows, values, errors = self._shown(dots)
            figure.add_scatter(
                x=values,
                y=rows,
                error_x={"array": np.nan_to_num(errors), "color": color, "thickness": 1},
                mode="markers",
                marker={"color": color, "size": 9},
                text=[_hover(v, e) for v, e in zip(values, errors, strict=True)],
                hovertemplate="%{y}: %{text}<extra></extra>",
                name=dots.name,
                showlegend=len(self.series) > 1,
            )
        if self.limit is not None:
            self._mark_limit(figure)
        figure.update_layout(xaxis=self._web_axis(), yaxis=self._web_names())
        return figure

    def _shown(self, dots: Dots) -> tuple[NDArray[np.int64], Floats, Floats]:
        live = np.isfinite(dots.values) & ((dots.values > 0) | (not self.log))
        return np.flatnonzero(live), dots.values[live], dots.errors[live]

    def _ends(self) -> tuple[float, float]:
        values = np.concatenate([dots.values for dots in self.series])
        values = values[np.isfinite(values) & ((values > 0) | (not self.log))]
        limit = 1.0 if self.limit is None else self.limit
        if not self.log:
            return 0.0, max(1.5 * limit, 1.1 * float(values.max(initial=0.0)))
        low = min(0.1 * limit, float(values.min(initial=0.2 * limit)) / 2)
        return low, max(4.0 * limit, 2 * float(values.max(initial=0.0)))

    def _mark_limit(self, figure: "go.Figure") -> None:
        look: Any = {"fillcolor": style.BAND, "opacity": 0.6, "line_width": 0, "layer": "below"}
        figure.add_vrect(x0=self.limit, x1=2 * self._ends()[1], **look)
        figure.add_vline(x=self.limit, line={"color": style.INK, "width": 1})
        place = float(np.log10(self.limit)) if self.log and self.limit else self.limit
        for anchor, text in zip(("right", "left"), self.sides, strict=True):
            look = {"yref": "paper", "yanchor": "top", "showarrow": False}
            figure.add_annotation(x=place, y=1, xanchor=anchor, text=text, **look)

    def _web_axis(self) -> dict[str, Any]:
        from lossatlas.plots import web
        from lossatlas.plots.logs import log_axis

        if not self.log:
            ends = {} if self.limit is None else {"range": self._ends()}
            return web.axis(self.axis, **ends)
        values = np.concatenate([dots.values for dots in self.series])
        return log_axis(self.axis, values if self.limit is None else self._ends())

    def _web_names(self) -> dict[str, Any]:
        from lossatlas.plots import web

        return web.axis(
            "",
            tickvals=list(range(len(self.names))),
            ticktext=[safe(name, 28) for name in self.names],
            range=[len(self.names) - 0.5, -0.5 if self.limit is None else -1.2],
            gridwidth=1,
        )


def _hover(value: float, error: float) -> str:
    return number(value) + (f" ± {number(error, 2)}" if np.isfinite(error) else "")
