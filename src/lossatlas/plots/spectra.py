"""Curvature as a picture: the density of a spectrum with its extreme eigenvalues."""

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes

from lossatlas.curvature.spectrum import Spectrum
from lossatlas.plots import canvas, style, web
from lossatlas.text import number

_EIGENVALUE = "eigenvalue (loss per squared weight)"
_DENSITY = "density of eigenvalues"
# Below this share of its peak a density is smoothing and rounding.
_FLOOR = 1e-7


def plot_spectrum(spectrum: Spectrum, *, ax: Axes | None = None) -> Axes:
    """Draw the density of a spectrum and its extreme eigenvalues with their bounds.

    Args:
        spectrum: with a density or without.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; heights are logarithmic.
    """
    ax = canvas.axes(ax, (5.4, 3.6))
    level = 1.0
    if spectrum.density is not None:
        grid, values, low, high = _band(spectrum)
        if np.isfinite(high).all():
            name = "± 1 standard error"
            ax.fill_between(grid, low, high, color=style.SHARED, lw=0, label=name)
        ax.plot(grid, values, color=style.BASIN, lw=1.2, label="density")
        ax.set_yscale("log")
        ax.set_ylim(*_heights(values, high))
        level = float(values.max() * np.sqrt(_FLOOR))
    found = np.concatenate([spectrum.bottom, spectrum.top])
    errors = np.concatenate([spectrum.bottom_bounds, spectrum.top_bounds])
    ax.errorbar(
        found,
        np.full(len(found), level),
        xerr=errors,
        fmt="o",
        ms=4,
        color=style.PATH,
        label="extreme eigenvalues",
    )
    canvas.name_axes(ax, "Spectrum", _EIGENVALUE, _DENSITY)
    ax.legend(frameon=False, fontsize=style.LABEL_SIZE - 1)
    return ax


def spectrum_figure(spectrum: Spectrum) -> go.Figure:
    """The same for a page, with every eigenvalue to point at.

    Args:
        spectrum: with a density or without.

    Returns:
        The figure.
    """
    figure = web.figure()
    level, ends = 1.0, (_FLOOR, 10.0)
    if spectrum.density is not None:
        grid, values, low, high = _band(spectrum)
        if np.isfinite(high).all():
            _draw_band(figure, grid, low, high)
        figure.add_scatter(
            x=grid, y=values, line={"color": style.BASIN}, hoverinfo="skip", name="density"
        )
        level, ends = float(values.max() * np.sqrt(_FLOOR)), _heights(values, high)
    found = np.concatenate([spectrum.bottom, spectrum.top])
    errors = np.concatenate([spectrum.bottom_bounds, spectrum.top_bounds])
    figure.add_scatter(
        x=found,
        y=np.full(len(found), level),
        error_x={"array": errors, "color": style.PATH},
        mode="markers",
        marker={"color": style.PATH, "size": 8},
        text=[f"{number(v)} ± {number(e, 2)}" for v, e in zip(found, errors, strict=True)],
        hovertemplate="%{text}<extra></extra>",
        name="extreme eigenvalues",
    )
    figure.update_layout(
        xaxis=web.axis(_EIGENVALUE),
        yaxis=web.axis(
            _DENSITY, type="log", exponentformat="power", dtick=2, range=np.log10(ends).tolist()
        ),
    )
    return figure


def _band(spectrum: Spectrum) -> tuple[np.ndarray, ...]:
    density = spectrum.density
    assert density is not None
    grid = density.grid
    values, errors = density.on(grid)
    # Far below the axis: a density that vanishes leaves the picture.
    floor = float(values.max()) * _FLOOR**2
    low, middle, high = (
        np.maximum(line, floor) for line in (values - errors, values, values + errors)
    )
    return grid, middle, low, high


def _draw_band(figure: go.Figure, grid: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    figure.add_scatter(
        x=np.concatenate([grid, grid[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=style.translucent(style.SHARED, 0.7),
        line={"width": 0},
        hoverinfo="skip",
        name="± 1 standard error",
    )


def _heights(values: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    # One probe has no spread: the band is then unknown and not drawn.
    top = float(np.fmax(values, high).max())
    return top * _FLOOR, 3 * top
