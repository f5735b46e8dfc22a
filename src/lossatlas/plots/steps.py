"""What a step meets: rates against the edge of stability, examples against the landscape."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from lossatlas.curvature import SampleSizeCurve, Stability
from lossatlas.plots import style, web
from lossatlas.plots.logs import log_axis
from lossatlas.text import number, safe


def edge_figure(found: Mapping[str, Stability]) -> go.Figure:
    """Learning rates in units of the largest that is stable on a quadratic.

    Args:
        found: name of the rule -> its measurement.

    Returns:
        The figure; the edge is at 1, beyond it the ground is shaded.
    """
    names = list(found)
    ratios = np.array([max(each.ratio, 0.0) for each in found.values()])
    bounds = np.array([each.bound / each.threshold for each in found.values()])
    figure = web.figure(160 + 48 * len(names), margin={"l": 72, "r": 24, "t": 40, "b": 72})
    texts = [
        f"lr x eigenvalue = {number(each.sharpness)} ± {number(each.bound, 2)}, "
        f"the edge is at {number(each.threshold, 3)}"
        for each in found.values()
    ]
    figure.add_scatter(
        x=ratios,
        y=list(range(len(names))),
        error_x={"array": bounds, "color": style.PATH},
        mode="markers",
        marker={"color": style.PATH, "size": 12},
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    low = min(0.1, float(ratios[ratios > 0].min(initial=0.2)) / 2)
    high = max(4.0, 2 * float(ratios.max()))
    look = {"fillcolor": style.BAND, "opacity": 0.6, "line_width": 0, "layer": "below"}
    figure.add_vrect(x0=1, x1=2 * high, **look)
    figure.add_vline(x=1, line={"color": style.INK, "width": 1})
    for anchor, text in (("right", "stable "), ("left", " beyond the edge")):
        figure.add_annotation(
            x=0, y=1, yref="paper", yanchor="top", xanchor=anchor, text=text, showarrow=False
        )
    figure.update_layout(
        xaxis=log_axis("curvature over the largest stable one", [low, high]),
        yaxis=web.axis(
            "",
            tickvals=list(range(len(names))),
            ticktext=[safe(name, 30) for name in names],
            range=[len(names) - 0.5, -0.5],
            showgrid=False,
        ),
    )
    return figure


def samples_figure(curve: SampleSizeCurve) -> go.Figure:
    """How much the next example still moves the landscape.

    Args:
        curve: from `sample_size_curve`.

    Returns:
        The figure, logarithmic both ways, with the tolerance as a line.
    """
    middle, (low, high) = curve.change, curve.band
    # An error that is unknown has no band.
    low, high = (np.where(np.isfinite(end), end, middle) for end in (low, high))
    figure = web.figure(380)
    figure.add_scatter(
        x=np.concatenate([curve.sizes, curve.sizes[::-1]]),
        y=np.sqrt(np.concatenate([high, low[::-1]])),
        fill="toself",
        fillcolor=style.translucent(style.BASIN, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        name="95 % band over points and orders",
    )
    figure.add_scatter(
        x=curve.sizes,
        y=np.sqrt(middle),
        mode="lines+markers",
        line={"color": style.BASIN, "width": 2},
        hovertemplate="%{x} examples: %{y:.3g}<extra></extra>",
        name="change by the next example",
    )
    figure.add_hline(y=curve.tolerance, line={"color": style.PATH, "width": 1, "dash": "dash"})
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="lines",
        line={"color": style.PATH, "width": 1, "dash": "dash"},
        name="small enough",
    )
    figure.update_layout(
        xaxis=log_axis("examples", curve.sizes),
        yaxis=log_axis(
            "root mean square change of the loss",
            [*np.sqrt(high), *np.sqrt(low), curve.tolerance],
        ),
    )
    return figure
