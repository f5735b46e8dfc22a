"""The matplotlib backend: axes, their style, and drawing of charts."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import singledispatch
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import FuncNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.transforms import Bbox, ScaledTranslation
from mpl_toolkits.mplot3d import proj3d  # type: ignore[import-untyped]

from lossatlas.errors import ArgumentError
from lossatlas.plots import style
from lossatlas.plots.chart import (
    Area,
    Axis,
    Chart,
    Field,
    Line,
    Note,
    Points,
    Span,
    Surface,
    near_edges,
    pieces,
)
from lossatlas.plots.logs import log_ticks
from lossatlas.plots.scale import Scale
from lossatlas.text import cut_off

RC: Any = {
    "font.family": list(style.FAMILY),
    "font.size": style.LABEL_SIZE,
    "figure.facecolor": style.PAPER,
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
}


PAPER_RC: Any = {
    "font.size": 7.0,
    "lines.linewidth": 0.9,
    "axes.linewidth": 0.5,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,
    "figure.dpi": 200,
}
_width: ContextVar[float | None] = ContextVar("width", default=None)
_paper: ContextVar[bool] = ContextVar("paper", default=False)
_REMARK = re.compile(r" (?=[\[(])")
# Smallest and usual size of letters on paper, in points.
_PAPER_SIZE, _SMALLEST = 7.0, 5.5


@contextmanager
def _settings(changes: Any) -> Iterator[None]:
    is_interactive = plt.isinteractive()
    try:
        with plt.rc_context(changes):
            yield
            is_interactive = plt.isinteractive()
    finally:
        # The first figure of a notebook chooses its backend, which turns this on for all.
        mpl.interactive(is_interactive)


@contextmanager
def dressed(style: str, width: float | None) -> Iterator[None]:
    """Use a style and width for new axes, and restore matplotlib's settings afterwards."""
    chosen = width if width is not None or style == "screen" else 3.25
    tokens = _width.set(chosen), _paper.set(style == "paper")
    try:
        with _settings(RC | (PAPER_RC if style == "paper" else {})):
            yield
    finally:
        _width.reset(tokens[0])
        _paper.reset(tokens[1])


def font(change: float = 0.0) -> float:
    """Font size: that of labels plus some points."""
    if _paper.get():
        return max(_PAPER_SIZE + 0.7 * change, _SMALLEST)
    return style.LABEL_SIZE + change


def png(ax: Axes) -> bytes:
    """The figure of some axes as a PNG file; the figure is closed."""
    written = io.BytesIO()
    ax.figure.savefig(written, format="png")  # type: ignore[union-attr]
    plt.close(ax.figure)  # type: ignore[arg-type]
    return written.getvalue()


def axes(
    ax: Axes | None, size: tuple[float, float] = (5.4, 4.2), projection: str | None = None
) -> Axes:
    """Axes to draw on, in the style of the library.

    Args:
        ax: axes of the caller; None for a new figure.
        size: of a new figure, in inches.
        projection: "3d" for a surface.

    Returns:
        The axes. The settings of matplotlib are left as they were.
    """
    if ax is None:
        ax = _figure(size).add_subplot(projection=projection)
    if ax.name != "3d":
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(style.FAINT)
    ax.tick_params(colors=style.MUTED, labelsize=font(-1), width=0.6, length=3)
    return ax


# Points for the ticks and the title of an axis.
_TITLE_ROOM = 36
# Inches, and rows of a legend that its height has room for.
_LOWEST, _LEGEND_ROWS = 1.8, 2


def _figure(size: tuple[float, float]) -> Figure:
    width = _width.get()
    if width is not None:
        # Letters and a legend below take a height of their own, however few the rows.
        high = max(width * size[1] / size[0], min(width, _LOWEST))
        return plt.figure(figsize=(width, high), layout="constrained")
    with _settings(RC):
        return plt.figure(figsize=size, layout="constrained")


def name_axes(ax: Axes, title: str, x: str, y: str) -> None:
    """Title and axis titles."""
    if not _paper.get():
        # On paper a caption says it.
        ax.set_title(title, loc="left", fontsize=style.TITLE_SIZE, color=style.INK, pad=8)
    wide, high = ax.figure.get_size_inches() if _paper.get() else (0.0, 0.0)  # type: ignore[union-attr]
    ax.set_xlabel(_wrapped(x, wide), fontsize=font(), color=style.INK)
    ax.set_ylabel(_wrapped(y, high), fontsize=font(), color=style.INK)
    if _paper.get():
        _thin_ticks(ax)
    for text in (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label):  # type: ignore[attr-defined]
        text.set_parse_math(False)


def _wrapped(text: str, room: float) -> str:
    # Into lines of so many inches, but for the margins; 0 for any length.
    most = max(int(0.62 * room * 72 / (0.56 * font())), 12)
    if not room or len(text) <= most:
        return text
    # A unit or remark in brackets stays whole where it fits.
    parts = _REMARK.split(text, maxsplit=1)
    parts = parts if max(map(len, parts)) <= most else [text]
    return "\n".join(line for part in parts for line in textwrap.wrap(part, most))


def _thin_ticks(ax: Axes) -> None:
    # Labels between decades lie on each other where a figure is narrow.
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log" and abs(np.log10(high / low)) > 1:
            axis.set_minor_formatter(NullFormatter())


def note(
    ax: Axes, text: str, point: Sequence[float], offset: tuple[float, float], **look: Any
) -> None:
    """A small label next to a point."""
    plain: dict[str, Any] = {
        "fontsize": font(-2),
        "color": style.MUTED,
        "zorder": 7,
    }
    place = (point[0], point[1])
    ax.annotate(text, place, offset, textcoords="offset points", **(plain | look))


def legend(ax: Axes, **where: Any) -> None:
    """A quiet legend, if anything has a name."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        if _paper.get() and _owns_figure(ax):
            box = _below(ax, handles, labels)
        else:
            box = ax.legend(fontsize=font(-1), frameon=False, **where)
        for text in box.get_texts():
            text.set_color(style.INK)
            text.set_parse_math(False)


def _owns_figure(ax: Axes) -> bool:
    # Layouts that leave room for a legend belong to figures of our own.
    figure = ax.figure
    return isinstance(figure, Figure) and len(figure.axes) < 3 and _width.get() is not None


def _below(ax: Axes, handles: Any, labels: Any) -> Any:
    # Outside of the axes it covers nothing; as many columns as its longest entry lets in.
    figure: Any = ax.figure
    letters = max(map(len, labels)) + 7
    room = figure.get_figwidth() * 72 / (0.62 * font(-1))
    columns = max(1, min(len(labels), int(room / letters)))
    # Rows of the legend are not taken from the picture.
    more = -(-len(labels) // columns) - _LEGEND_ROWS
    figure.set_figheight(figure.get_figheight() + max(more, 0) * 2 * font(-1) / 72)
    look: Any = {"fontsize": font(-1), "frameon": False, "columnspacing": 1.2}
    return figure.legend(handles, labels, loc="outside lower center", ncols=columns, **look)


def color_map(colors: tuple[str, ...]) -> LinearSegmentedColormap:
    """A color map of the house."""
    return LinearSegmentedColormap.from_list("lossatlas", list(colors))


def norm(scale: Scale) -> FuncNorm:
    """The scale as matplotlib takes it."""
    return FuncNorm((scale.forward, scale.inverse), vmin=scale.low, vmax=scale.high)


def use_scale(ax: Axes, scale: Scale | None, which: str) -> None:
    """Spread an axis of losses by a scale."""
    if scale is None or not scale.is_log:
        return
    for name in which:
        # On paper few labels fit beside each other.
        ticks, labels = scale.ticks(5 if _paper.get() and name == "x" else 7)
        spread = {"x": ax.set_xscale, "y": ax.set_yscale}[name]
        spread("function", functions=(scale.forward, scale.inverse))
        axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
        axis.set_ticks(list(ticks), labels=labels)


def color_bar(ax: Axes, shown: ScalarMappable, scale: Scale | None, label: str) -> Colorbar:
    """A color bar beside the axes."""
    assert ax.figure is not None
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.9, pad=0.02, aspect=28)
    if scale is not None:
        ticks, labels = scale.ticks()
        bar.set_ticks(list(ticks), labels=labels, minor=False)
        bar.ax.minorticks_off()
    bar.set_label(label, fontsize=font(), color=style.INK)
    bar.ax.tick_params(colors=style.MUTED, labelsize=font(-1), width=0.6, length=3)
    bar.outline.set_visible(False)
    return bar


_SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "star": "*",
    "x": "X",
    "triangle-up": "^",
    "triangle-down": "v",
    "triangle-right": ">",
}
_DASHES: tuple[Any, ...] = ("-", (0, (4, 3)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
# Points of paper in a pixel of a page, for lines and for marks.
_WIDTH, _MARK = 0.7, 0.65
# Marks up to this size have a thin edge.
_SMALL = 4.0


def draw(chart: Chart, ax: Axes | None = None) -> Axes:
    """Draw a chart."""
    is_new = ax is None
    ax = axes(ax, _size(chart), None if chart.z is None else "3d")
    if chart.z is not None and ax.name != "3d":
        raise ArgumentError("`ax` must be three-dimensional; make it with projection='3d'.")
    if chart.z is not None:
        # Layers lie upon each other in their order: a path is not hidden by its surface.
        ax.computed_zorder = False  # type: ignore[attr-defined]
    if chart.y.marks_zero:
        ax.axhline(0, color=style.FAINT, lw=0.8)
    for depth, layer in enumerate(chart.layers):
        _add(layer, ax, chart, 1 + 0.1 * depth)
    if chart.z is None:
        _frame(ax, chart)
    else:
        _frame_space(ax, chart, chart.z)
    if is_new and _paper.get():
        _fill(ax, chart)
    return ax


# Inches that titles, ticks and the color bar of a map take beside and below it, on paper.
_MAP_ROOM = (1.15, 0.75)


def _size(chart: Chart) -> tuple[float, float]:
    """Of a new figure; a map on paper is as high as its sides ask for."""
    width, map_ratio = _width.get(), _map_ratio(chart)
    if not _paper.get() or width is None or not map_ratio:
        return chart.size
    beside, below = _MAP_ROOM
    return width, map_ratio * max(width - beside, 1.0) + below


def _map_ratio(chart: Chart) -> float:
    """Height over width of a map with equal units on both axes; 0 for other charts."""
    if chart.aspect != "map" or not (chart.x.limits and chart.y.limits):
        return 0.0
    wide, high = (limits[1] - limits[0] for limits in (chart.x.limits, chart.y.limits))
    return high / wide if 1 / 3 <= wide / high <= 3 else 0.0


def _fill(ax: Any, chart: Chart) -> None:
    """Leave no empty space around a map or a surface on paper."""
    figure = ax.figure
    if chart.z is None:
        if _map_ratio(chart):
            figure.set_layout_engine("compressed")
        return
    # The layout knows nothing of what is drawn inside of the box of a surface.
    figure.set_layout_engine("none")
    room, side = figure.get_figwidth() - 2 * _MARGIN, figure.get_figwidth()
    left = bottom = 0.0
    for _ in range(_TRIES):
        wide, high = figure.get_size_inches()
        ax.set_position((left / wide, bottom / high, side / wide, side / high))
        figure.draw_without_rendering()
        drawn = _drawn_in_space(ax)
        grow = room / drawn.width
        left = _MARGIN + (left - drawn.x0) * grow
        bottom = _MARGIN + (bottom - drawn.y0) * grow
        side *= grow
        figure.set_figheight(drawn.height * grow + 2 * _MARGIN)
    wide, high = figure.get_size_inches()
    ax.set_position((left / wide, bottom / high, side / wide, side / high))


# Inches around a surface on paper. Fonts do not scale with it, so it is fitted again.
_MARGIN, _TRIES = 0.05, 5


def _drawn_in_space(ax: Any) -> Bbox:
    """What the box of a surface, its ticks and its titles take, in inches."""
    renderer = ax.figure.canvas.get_renderer()
    parts = [axis.get_tightbbox(renderer) for axis in (ax.xaxis, ax.yaxis, ax.zaxis)]
    corners = np.array(np.meshgrid(ax.get_xlim(), ax.get_ylim(), ax.get_zlim())).reshape(3, -1)
    x, y, _ = proj3d.proj_transform(*corners, ax.get_proj())
    points = ax.transData.transform(np.stack([x, y], axis=1))
    box = Bbox.union([*filter(None, parts), Bbox([points.min(0), points.max(0)])])
    return box.transformed(ax.figure.dpi_scale_trans.inverted())


def _frame(ax: Any, chart: Chart) -> None:
    for which, axis in (("x", chart.x), ("y", chart.y)):
        use_scale(ax, axis.scale, which)
        _dress_axis(ax, axis, which)
    if chart.aspect == "square":
        ax.set_box_aspect(1)
    if chart.aspect == "map" and chart.x.limits and chart.y.limits:
        wide, high = (limits[1] - limits[0] for limits in (chart.x.limits, chart.y.limits))
        ax.set_aspect("equal" if 1 / 3 <= wide / high <= 3 else "auto")
    name_axes(ax, chart.title, chart.x.title, chart.y.title)
    legend(ax, **(_under(ax) if chart.legend == "below" else {"loc": chart.legend}))


def _under(ax: Any) -> dict[str, Any]:
    # So many points below the axes, however low they are: there stand ticks and a title.
    down = ScaledTranslation(0, -_TITLE_ROOM / 72, ax.figure.dpi_scale_trans)
    place = {"bbox_to_anchor": (0, 0), "bbox_transform": ax.transAxes + down}
    return {"loc": "upper left", "ncols": 2, "borderaxespad": 0, **place}


def _dress_axis(ax: Any, axis: Axis, which: str) -> None:
    side = ax.xaxis if which == "x" else ax.yaxis
    limit = ax.set_xlim if which == "x" else ax.set_ylim
    ticks = axis.ticks
    if axis.is_log:
        (ax.set_xscale if which == "x" else ax.set_yscale)("log")
        _label_decades(side, *(ax.get_xlim() if which == "x" else ax.get_ylim()))
    if axis.from_zero:
        limit(0, None)
    if axis.limits is not None:
        limit(*axis.limits)
        most = 3 if _paper.get() and which == "x" else 8
        ticks = ticks or (log_ticks(axis.limits, most) if axis.is_log else None)
    if ticks is not None:
        side.set_ticks(list(ticks[0]), labels=list(ticks[1]))
        side.set_minor_locator(NullLocator())
    elif _paper.get() and which == "x" and not (axis.is_log or _is_spread(axis)):
        side.set_major_locator(MaxNLocator(5))
    if axis.is_whole:
        side.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        limit(0, None)
    _show(ax, axis, which)


def _is_spread(axis: Axis) -> bool:
    return axis.scale is not None and axis.scale.is_log


# Numbers written out; 1, 2 and 5 of each decade where there are few.
def _label_decades(side: Any, low: float, high: float) -> None:
    few = low > 0 and high < 1e3 * low
    side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_formatter(NullFormatter())


def _show(ax: Any, axis: Axis, which: str) -> None:
    if not axis.is_visible:
        (ax.xaxis if which == "x" else ax.yaxis).set_ticks([])
        ax.spines["bottom" if which == "x" else "left"].set_visible(False)
    if axis.has_grid:
        ax.grid(axis=which, color=style.GRID, lw=0.6)


def _frame_space(ax: Any, chart: Chart, z: Axis) -> None:
    if z.ticks is not None:
        places, labels = _apart(*z.ticks) if _paper.get() else z.ticks
        ax.set_zticks(list(places), labels=list(labels))
    name_axes(ax, chart.title, chart.x.title, chart.y.title)
    ax.set_zlabel(_wrapped(z.title, 1.6 * bool(_paper.get())), fontsize=font())
    ax.zaxis.label.set_parse_math(False)
    ax.set_box_aspect([4 * side for side in chart.ratio])
    if _paper.get():
        _paper_space(ax, chart)
    ax.view_init(elev=32, azim=-56)


def _apart(places: Sequence[float], labels: Sequence[str]) -> tuple[list[float], list[str]]:
    # Ticks at least a fifth of the axis from each other.
    chosen: list[int] = []
    for k, place in enumerate(places):
        if not chosen or place - places[chosen[-1]] >= 0.2 * (places[-1] - places[0]):
            chosen.append(k)
    return [places[k] for k in chosen], [labels[k] for k in chosen]


def _paper_space(ax: Any, chart: Chart) -> None:
    # Letters are large beside a small box: few of them, and upright.
    for axis, turned in ((ax.xaxis, 0), (ax.yaxis, 0), (ax.zaxis, 90)):
        if axis is not ax.zaxis or chart.z is None or chart.z.ticks is None:
            axis.set_major_locator(MaxNLocator(3))
        axis.set_rotate_label(False)
        axis.label.set_rotation(turned)
        axis.labelpad = 1
        axis.set_tick_params(pad=-1, labelsize=font(-1))


def _place(layer: Line | Points) -> tuple[Any, ...]:
    return (layer.x, layer.y) if layer.z is None else (layer.x, layer.y, layer.z)


def _label(ax: Any, name: str) -> str:
    # One legend entry per name.
    used_names = ax.get_legend_handles_labels()[1]
    return "_nolegend_" if not name or cut_off(name) in used_names else cut_off(name)


@singledispatch
def _add(layer: Any, ax: Any, chart: Chart, depth: float) -> None:
    raise NotImplementedError(type(layer).__name__)


# On paper; a path in space is as wide as on a page, where the picture is larger.
def _thinner(layer: Line) -> float:
    if not _paper.get():
        return 1.0
    return 0.6 if layer.z is None else 0.35


@_add.register
def _(layer: Line, ax: Any, chart: Chart, depth: float) -> None:
    drawn = ax.plot(
        *_place(layer),
        color=layer.color,
        lw=_WIDTH * layer.width * _thinner(layer),
        ls=_DASHES[layer.dash],
        alpha=layer.opacity,
        label=_label(ax, layer.name),
        zorder=depth,
        **({"drawstyle": "steps-post"} if layer.is_steps else {}),
    )
    if layer.marks:
        drawn[0].set(marker="o", markersize=_MARK * layer.marks)


@_add.register
def _(layer: Points, ax: Any, chart: Chart, depth: float) -> None:
    hollow = not layer.color
    ax.plot(
        *_place(layer),
        _SYMBOLS[layer.symbol],
        ms=_MARK * layer.size * (0.75 if _paper.get() else 1.0),
        mfc="none" if hollow else layer.color,
        mec=layer.edge,
        mew=0.8 if layer.size > _SMALL else 0.4,
        label=_label(ax, layer.name),
        zorder=depth,
        # Minima like the edge, and are drawn whole there.
        clip_on=layer.z is not None,
    )
    shadow = [patheffects.withStroke(linewidth=2, foreground=style.INK)]
    sides = near_edges(layer, chart) if layer.labels else ()
    for text, (right, top), *place in zip(
        layer.labels or (), sides, *_place(layer), strict=False
    ):
        look: dict[str, Any] = {"color": layer.label_color}
        look |= {"path_effects": shadow} if layer.label_color == style.PAPER else {}
        look |= {"fontweight": "bold"} if layer.is_bold else {}
        look |= {"ha": "right" if right else "left", "va": "top" if top else "baseline"}
        note(ax, text, place, (-5 if right else 5, -4 if top else 4), **look)


@_add.register
def _(layer: Area, ax: Any, chart: Chart, depth: float) -> None:
    for x, y in pieces(layer.x, layer.y):
        look: dict[str, Any] = {"facecolor": layer.color, "alpha": layer.opacity}
        if layer.is_hatched:
            look |= {"hatch": "////", "edgecolor": style.FAINT}
        elif layer.edge:
            look |= {"edgecolor": layer.edge}
        width = 0.7 if layer.edge else 0
        label = _label(ax, layer.name)
        corners = np.stack([x, y], axis=1)
        ax.add_patch(Polygon(corners, linewidth=width, zorder=depth, label=label, **look))
        ax.update_datalim(corners)
    ax.autoscale_view()


@_add.register
def _(layer: Field, ax: Any, chart: Chart, depth: float) -> None:
    values = np.ma.masked_invalid(layer.z.T)
    if not values.count():
        return
    look: dict[str, Any] = {"cmap": color_map(layer.colors), "norm": norm(layer.scale)}
    if layer.is_cells:
        shown = ax.pcolormesh(layer.x, layer.y, values, zorder=depth, rasterized=True, **look)
    else:
        where: dict[str, Any] = {"levels": layer.scale.levels(), "corner_mask": False}
        shown = ax.contourf(layer.x, layer.y, values, zorder=depth, **where, **look)
        thin: dict[str, Any] = {"colors": "white", "linewidths": 0.5, "alpha": 0.55}
        ax.contour(layer.x, layer.y, values, zorder=depth, **where, **thin)
    color_bar(ax, shown, layer.scale, layer.title)


@_add.register
def _(layer: Surface, ax: Any, chart: Chart, depth: float) -> None:
    bottom, top = layer.scale.heights(2)
    colors = color_map(style.DEPTH)
    look: dict[str, Any] = {"rcount": 80, "ccount": 80, "linewidth": 0, "antialiased": True}
    if layer.shade is None:
        look |= {"cmap": colors, "vmin": bottom, "vmax": top}
    else:
        look |= {"facecolors": colors((layer.shade - bottom) / (top - bottom)), "shade": False}
    ax.plot_surface(layer.x, layer.y, layer.z, alpha=0.95, zorder=depth, **look)


@_add.register
def _(layer: Span, ax: Any, chart: Chart, depth: float) -> None:
    look = {"facecolor": style.WALL, "hatch": "////", "edgecolor": style.FAINT, "lw": 0}
    ax.axvspan(layer.low, layer.high, zorder=depth, **look)


@_add.register
def _(layer: Note, ax: Any, chart: Chart, depth: float) -> None:
    if layer.x is None or layer.y is None:
        place = {"transform": ax.transAxes, "ha": "center", "color": style.MUTED}
        ax.text(0.5, 0.5, layer.text, **place)
    else:
        look = {
            "above": {"offset": (0, 3), "ha": "center"},
            "left": {"offset": (-3, 0), "ha": "right", "va": "center"},
            "right": {"offset": (3, 0), "ha": "left", "va": "center"},
        }
        note(ax, layer.text, (layer.x, layer.y), **look[layer.side])  # type: ignore[arg-type]
