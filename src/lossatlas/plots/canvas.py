"""The matplotlib side of the style: new axes, their dress, color maps."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import FuncNorm, LinearSegmentedColormap
from matplotlib.figure import Figure

from lossatlas.plots import style
from lossatlas.plots.scale import Scale

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
    "font.size": 7,
    "lines.linewidth": 0.9,
    "axes.linewidth": 0.5,
    "pdf.fonttype": 42,
    "figure.dpi": 200,
}
_width: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def dressed(style: str, width: float | None) -> Iterator[None]:
    """Within it, new axes have this style and width; matplotlib's settings come back after."""
    chosen = width if width is not None or style == "screen" else 3.25
    token = _width.set(chosen)
    try:
        with plt.rc_context(RC | (PAPER_RC if style == "paper" else {})):
            yield
    finally:
        _width.reset(token)


def png(ax: Axes) -> bytes:
    """The figure of some axes as a PNG file; the figure is closed."""
    written = io.BytesIO()
    ax.figure.savefig(written, format="png")  # type: ignore[union-attr]
    plt.close(ax.figure)  # type: ignore[arg-type]
    return written.getvalue()


def axes(
    ax: Axes | None, size: tuple[float, float] = (5.4, 4.2), projection: str | None = None
) -> Axes:
    """The axes to draw on, in the style of the house.

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
    ax.tick_params(colors=style.MUTED, labelsize=style.LABEL_SIZE - 1, width=0.6, length=3)
    return ax


def _figure(size: tuple[float, float]) -> Figure:
    width = _width.get()
    if width is not None:
        return plt.figure(figsize=(width, width * size[1] / size[0]), layout="constrained")
    with plt.rc_context(RC):
        return plt.figure(figsize=size, layout="constrained")


def name_axes(ax: Axes, title: str, x: str, y: str) -> None:
    """Title and axis titles."""
    ax.set_title(title, loc="left", fontsize=style.TITLE_SIZE, color=style.INK, pad=8)
    ax.set_xlabel(x, fontsize=style.LABEL_SIZE, color=style.INK)
    ax.set_ylabel(y, fontsize=style.LABEL_SIZE, color=style.INK)
    for text in (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label):  # type: ignore[attr-defined]
        text.set_parse_math(False)


def note(
    ax: Axes, text: str, point: Sequence[float], offset: tuple[float, float], **look: Any
) -> None:
    """A small word beside a point."""
    plain: dict[str, Any] = {
        "fontsize": style.LABEL_SIZE - 2,
        "color": style.MUTED,
        "zorder": 7,
    }
    place = (point[0], point[1])
    ax.annotate(text, place, offset, textcoords="offset points", **(plain | look))


def legend(ax: Axes, **where: Any) -> None:
    """A quiet legend, if anything has a name."""
    if ax.get_legend_handles_labels()[0]:
        box = ax.legend(fontsize=style.LABEL_SIZE - 1, frameon=False, **where)
        for text in box.get_texts():
            text.set_color(style.INK)
            text.set_parse_math(False)


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
    ticks, labels = scale.ticks()
    for name in which:
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
    bar.set_label(label, fontsize=style.LABEL_SIZE, color=style.INK)
    bar.ax.tick_params(colors=style.MUTED, labelsize=style.LABEL_SIZE - 1, width=0.6, length=3)
    bar.outline.set_visible(False)
    return bar
