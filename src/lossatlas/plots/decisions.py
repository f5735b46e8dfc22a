"""The log of a controller as a picture: the scale of the rate, and why it changed."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lossatlas.plots import canvas, style, web
from lossatlas.steering.log import DecisionLog, Record
from lossatlas.text import number, safe, with_error

_SCALE = "scale of the rate"
_WAYS = (
    ("up", style.FILL, "^", "triangle-up"),
    ("same", style.FAINT, "o", "circle"),
    ("down", style.PATH, "v", "triangle-down"),
    ("no reading", style.INK, "x", "x"),
)


def plot_decisions(log: DecisionLog, *, ax: Axes | None = None) -> Axes:
    """Draw the scale after every decision; marks tell raises, cuts and failed probes.

    Args:
        log: of a controller.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; the scale of the first group is logarithmic where it spans a decade.
    """
    ax = canvas.axes(ax, (5.4, 3.2))
    steps, scales, ways = _shown(log)
    ax.step(steps, scales, where="post", color=style.BASIN, lw=1.0)
    for index, (name, color, mark, _) in enumerate(_WAYS):
        these = ways == index
        if these.any():
            ax.scatter(
                steps[these], scales[these], s=16, c=color, marker=mark, label=name, zorder=3
            )
    if _wide(scales):
        ax.set_yscale("log")
    canvas.name_axes(ax, f"{len(log)} decisions", "update", _SCALE)
    canvas.legend(ax)
    return ax


def decisions_figure(log: DecisionLog) -> go.Figure:
    """The same for a page, with reading and reason to point at.

    Args:
        log: of a controller.

    Returns:
        The figure.
    """
    figure = web.figure(360)
    steps, scales, ways = _shown(log)
    figure.add_scatter(
        x=steps,
        y=scales,
        mode="lines",
        line={"color": style.BASIN, "shape": "hv", "width": 1},
        hoverinfo="skip",
        name=_SCALE,
    )
    texts = np.array([_hover(record) for record in log], dtype=object)
    for index, (name, color, _, mark) in enumerate(_WAYS):
        these = ways == index
        if these.any():
            figure.add_scatter(
                x=steps[these],
                y=scales[these],
                mode="markers",
                marker={"color": color, "symbol": mark, "size": 8},
                text=texts[these],
                hovertemplate="%{text}<extra></extra>",
                name=name,
            )
    options: dict[str, Any] = {"type": "log"} if _wide(scales) else {}
    figure.update_layout(xaxis=web.axis("update"), yaxis=web.axis(_SCALE, **options))
    return figure


def _shown(log: DecisionLog) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    scales = log.column("scale").astype(float)
    before = np.concatenate([[1.0], scales[:-1]])
    ways = 1 - np.sign(scales - before).astype(int)
    ways[log.column("failed").astype(bool)] = 3
    return log.column("step"), scales, ways


def _wide(scales: NDArray[Any]) -> bool:
    return bool(len(scales) and scales.min() > 0 and scales.max() > 10 * scales.min())


def _hover(record: Record) -> str:
    seen = record.reading
    lines = [
        f"update {seen.step}: {safe(record.reason)}",
        f"scale {number(record.scales[0])}, rate {number(record.rates[0])}",
    ]
    for name in ("loss", "sharpness", "variability", "edge", "train_loss"):
        value = getattr(seen, name)
        if np.isfinite(value):
            error = getattr(seen, name.replace("_loss", "") + "_error")
            lines.append(f"{name.replace('_', ' ')} {with_error(value, error)}")
    return "<br>".join(lines)
