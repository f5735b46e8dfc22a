"""Initialization studies on paper: scores with intervals, predictions, cost against regret."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from lossatlas.plots import canvas, style
from lossatlas.plots.curves import HUES
from lossatlas.text import cut_off

Array = NDArray[np.float64]


def plot_scores(
    names: Sequence[str],
    scores: ArrayLike,
    *,
    title: str,
    label: str,
    ceiling: float | None = None,
    strong: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw numbers with intervals, one row a name, the best at the top.

    Args:
        names: what is compared.
        scores: (value, lower, upper) of each, shape (names, 3); rows that are NaN are left out.
        title: what is shown.
        label: of the axis, with its unit.
        ceiling: the highest value that the noise of the labels allows, drawn as a line.
        strong: names drawn in the strong color.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.
    """
    rows = np.asarray(scores, dtype=np.float64)
    order = [int(k) for k in np.argsort(rows[:, 0]) if np.isfinite(rows[k, 0])]
    ax = canvas.axes(ax, (6.4, 1.2 + 0.21 * len(order)))
    for place, k in enumerate(order):
        value, lower, upper = rows[k]
        hue = style.PATH if names[k] in strong else style.BASIN
        ax.barh(place, value, height=0.62, color=hue, alpha=0.28, lw=0)
        ax.plot([lower, upper], [place, place], color=hue, lw=1.6, solid_capstyle="butt")
        ax.plot(value, place, "o", ms=4, color=hue)
    ax.axvline(0, color=style.FAINT, lw=0.8)
    if ceiling is not None and np.isfinite(ceiling):
        ax.axvline(ceiling, color=style.INK, lw=0.9, ls=(0, (4, 3)))
        canvas.note(ax, "noise ceiling", (ceiling, len(order) - 0.4), (-3, 2), ha="right")
    ax.set_yticks(range(len(order)), [cut_off(names[k], 44) for k in order])
    ax.set_ylim(-0.7, len(order) + 0.1)
    canvas.name_axes(ax, title, label, "")
    return ax


def plot_predicted(
    truth: ArrayLike,
    predicted: ArrayLike,
    groups: Sequence[str],
    *,
    title: str,
    label: str = "log loss after training",
    ax: Axes | None = None,
) -> Axes:
    """Draw predictions of held-out points against what came."""
    ax = canvas.axes(ax, (4.8, 4.4))
    x, y = (np.asarray(a, dtype=np.float64) for a in (truth, predicted))
    known = np.isfinite(x) & np.isfinite(y)
    if known.any():
        ends = [float(x[known].min()), float(x[known].max())]
        ax.plot(ends, ends, color=style.FAINT, lw=0.9)
    member = np.asarray(groups)
    for k, group in enumerate(sorted(set(groups))):
        here = known & (member == group)
        hue = HUES[k % len(HUES)]
        ax.plot(x[here], y[here], "o", ms=3.2, alpha=0.6, mew=0, color=hue, label=group)
    canvas.name_axes(ax, title, f"{label}, measured", "predicted")
    canvas.legend(ax, loc="best")
    return ax


def plot_choice(
    names: Sequence[str],
    numbers: ArrayLike,
    *,
    group: int,
    training: str = "halving",
    strong: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw what choosing one of many costs, and what is lost by the choice.

    Args:
        names: ways to choose.
        numbers: (cost, regret, lower, upper) of each, shape (names, 4).
        group: how many there are to choose from.
        training: names that begin so, or with "train", are trainings of the candidates.
        strong: names that are written beside their points whatever they are worth; of the
            others only those that nothing cheaper beats, or all faded points would overlap.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, logarithmic both ways; ways that cost nothing stand at the left edge.
    """
    ax = canvas.axes(ax, (7.4, 4.6))
    rows = np.array(numbers, dtype=np.float64)
    paid, lost = rows[rows[:, 0] > 0, 0], rows[rows[:, 1] > 0, 1]
    rows[:, 0] = np.maximum(rows[:, 0], paid.min() / 4 if paid.size else 1.0)
    least = float(lost.min()) / 4 if lost.size else 1e-3
    rows[:, 1:] = np.maximum(rows[:, 1:], least)
    trained = np.array([name.startswith((training, "train")) for name in names])
    told = _unbeaten(rows) | np.isin(np.array(names), list(strong))
    words = {False: "predictors", True: "training the candidates"}
    for kind, word in words.items():
        hue = style.PATH if kind else style.BASIN
        for chosen, alpha in ((told, 1.0), (~told, 0.25)):
            shown = rows[chosen & (trained == kind)]
            error = np.abs(shown[:, 2:] - shown[:, 1:2]).T
            ax.errorbar(
                shown[:, 0], shown[:, 1], yerr=error, fmt="o", ms=4, lw=0.9, color=hue,
                alpha=alpha, label=word if alpha == 1.0 else None,
            )  # fmt: skip
    for place, k in enumerate(k for k in np.argsort(rows[:, 0]) if told[k]):
        offset = (5, 6) if place % 2 else (5, -9)
        canvas.note(ax, cut_off(names[k], 34), tuple(rows[k, :2]), offset, fontsize=6.5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(x=0.12)
    title = f"Choosing one of {group}: what it costs, and what is lost"
    canvas.name_axes(ax, title, "cost, forward passes over the probe", "regret, loss")
    canvas.legend(ax, loc="best")
    return ax


def _unbeaten(rows: Array) -> NDArray[np.bool_]:
    # Nothing that costs as little or less loses less.
    cheaper = rows[None, :, 0] <= rows[:, None, 0]
    better = rows[None, :, 1] < rows[:, None, 1]
    return np.asarray(~(cheaper & better).any(axis=1))


def plot_histories(
    histories: Mapping[str, Array], *, title: str, label: str, ax: Axes | None = None
) -> Axes:
    """Draw what trainings wrote down, one line each."""
    ax = canvas.axes(ax)
    for k, (name, values) in enumerate(histories.items()):
        hue = HUES[k % len(HUES)]
        ax.plot(1 + np.arange(len(values)), values, color=hue, lw=1.3, label=cut_off(name, 30))
    every = np.concatenate([np.empty(0), *histories.values()])
    if every.size and every.min() > 0 and every.max() > 10 * every.min():
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.name_axes(ax, title, "epoch", label)
    canvas.legend(ax)
    return ax
