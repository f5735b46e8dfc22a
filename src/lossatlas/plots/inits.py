"""Pictures of initialization studies: scores, predictions, cost against regret, trainings."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.plots import style
from lossatlas.plots.chart import Area, Axis, Chart, Layer, Line, Note, Points, joined
from lossatlas.plots.style import HUES
from lossatlas.text import cut_off, number

Array = NDArray[np.float64]


def scores_chart(
    names: Sequence[str],
    scores: ArrayLike,
    *,
    title: str,
    label: str,
    ceiling: float | None = None,
    strong: Sequence[str] = (),
    lowest_first: bool = False,
) -> Chart:
    """Numbers with intervals, one row per name, best at the top.

    Args:
        names: what is compared.
        scores: (value, lower, upper) of each, shape (names, 3); rows that are NaN are left out.
        title: what is shown.
        label: of the axis, with its unit.
        ceiling: the highest value that the noise of the labels allows, drawn as a line.
        strong: names drawn in the strong color.
        lowest_first: whether the lowest is the best, as of losses.

    Returns:
        The chart.
    """
    rows = np.asarray(scores, dtype=np.float64)
    order = [int(k) for k in np.argsort(rows[:, 0]) if np.isfinite(rows[k, 0])]
    order = order[::-1] if lowest_first else order
    top = len(order) - 0.4
    layers: list[Layer] = [Line([0.0, 0.0], [-0.6, top], color=style.FAINT, width=1.0)]
    for is_strong, hue in ((False, style.BASIN), (True, style.PATH)):
        shown = [(y, k) for y, k in enumerate(order) if (names[k] in strong) == is_strong]
        if shown:
            layers += _intervals(shown, rows, names, hue)
    if ceiling is not None and np.isfinite(ceiling):
        ends = [ceiling, ceiling]
        layers.append(Line(ends, [-0.6, top], width=1.2, dash=1))
        layers.append(Note("noise ceiling", ceiling, top))
    ticks = (list(range(len(order))), [cut_off(names[k], 44) for k in order])
    y = Axis(limits=(-0.7, len(order) + 0.1), ticks=ticks)
    size = (6.4, 1.2 + 0.21 * len(order))
    height = 120 + 20 * len(order)
    return Chart(title, Axis(label), y, tuple(layers), size=size, height=height)


def _intervals(
    shown: Sequence[tuple[int, int]], rows: Array, names: Sequence[str], hue: str
) -> list[Layer]:
    places, picked = np.array([y for y, _ in shown], dtype=float), [k for _, k in shown]
    bars = [np.array([0.0, v, v, 0.0, 0.0]) for v in rows[picked, 0]]
    sides = [y + 0.31 * np.array([-1.0, -1.0, 1.0, 1.0, -1.0]) for y in places]
    hover = [_hover(names[k], rows[k]) for k in picked]
    return [
        Area(joined(bars), joined(sides), hue, opacity=0.28),
        Line(joined(list(rows[picked, 1:])), joined([y.repeat(2) for y in places]), color=hue),
        Points(rows[picked, 0], places, color=hue, size=6.0, hover=hover),
    ]


def _hover(name: str, row: Array) -> str:
    value, lower, upper = (number(float(v), 3) for v in row)
    return f"{name}\n{value} [{lower}, {upper}]"


def predicted_chart(
    truth: ArrayLike,
    predicted: ArrayLike,
    groups: Sequence[str],
    *,
    title: str,
    label: str = "log loss after training",
) -> Chart:
    """Predictions of held-out points against measurements, one color per group."""
    x, y = (np.asarray(a, dtype=np.float64) for a in (truth, predicted))
    finite = np.isfinite(x) & np.isfinite(y)
    layers: list[Layer] = []
    if finite.any():
        ends = [float(x[finite].min()), float(x[finite].max())]
        layers.append(Line(ends, ends, color=style.FAINT, width=1.2))
    member = np.asarray(groups)
    for k, group in enumerate(sorted(set(member[finite].tolist()))):
        inside = finite & (member == group)
        hue = HUES[k % len(HUES)]
        layers.append(Points(x[inside], y[inside], color=hue, size=5.0, name=str(group)))
    return Chart(
        title, Axis(f"{label}, measured"), Axis("predicted"), tuple(layers), size=(4.8, 4.4)
    )


def choice_chart(
    names: Sequence[str], numbers: ArrayLike, *, group: int, strong: Sequence[str] = ()
) -> Chart:
    """What choosing one of many costs, and what is lost by the choice.

    Args:
        names: ways to choose; those that begin with "halving" or "train" are trainings.
        numbers: (cost, regret, lower, upper) of each, shape (names, 4).
        group: how many there are to choose from.
        strong: names that are written beside their points whatever they are worth; of the
            others only those that nothing cheaper beats.

    Returns:
        The chart, logarithmic both ways; ways that cost nothing stand at the left edge.
    """
    rows = np.array(numbers, dtype=np.float64)
    paid, lost = rows[rows[:, 0] > 0, 0], rows[rows[:, 1] > 0, 1]
    rows[:, 0] = np.maximum(rows[:, 0], paid.min() / 4 if paid.size else 1.0)
    rows[:, 1:] = np.maximum(rows[:, 1:], float(lost.min()) / 4 if lost.size else 1e-3)
    trained = np.array([name.startswith(("halving", "train")) for name in names])
    labeled = _unbeaten(rows) | np.isin(np.array(names), list(strong))
    logs, layers = np.log10(rows), list[Layer]()
    for kind, word in ((False, "predictors"), (True, "training the candidates")):
        hue = style.PATH if kind else style.BASIN
        for chosen, faint in ((~labeled, True), (labeled, False)):
            shown = np.flatnonzero(chosen & (trained == kind))
            if len(shown):
                layers += _choices(
                    logs[shown],
                    rows[shown],
                    [names[int(k)] for k in shown],
                    hue,
                    word,
                    faint=faint,
                )
    layers += _labels(
        logs[labeled, :2], [n for n, told in zip(names, labeled, strict=True) if told]
    )
    title = f"Choosing one of {group}: what it costs, and what is lost"
    x = Axis("cost, forward passes over the probe examples", ticks=_decades(logs[:, 0]))
    y = Axis("regret, loss", ticks=_decades(logs[:, 1:]))
    return Chart(title, x, y, tuple(layers), size=(7.4, 4.6))


def _choices(
    logs: Array, rows: Array, names: Sequence[str], hue: str, word: str, *, faint: bool
) -> list[Layer]:
    cost, regret = logs[:, 0], logs[:, 1]
    across = joined([np.array([c, c]) for c in cost])
    hover = [
        f"{name}\ncost {number(row[0], 3)}, regret {number(row[1], 3)}"
        for name, row in zip(names, rows, strict=True)
    ]
    opacity = 0.25 if faint else 1.0
    return [
        Line(across, joined(list(logs[:, 2:])), color=hue, width=1.0, opacity=opacity),
        Points(
            cost,
            regret,
            color=style.FAINT if faint else hue,
            size=6.0,
            name="" if faint else word,
            hover=hover,
        ),
    ]


def _labels(places: Array, names: Sequence[str]) -> list[Layer]:
    # A name that would cover another stands higher.
    wide, high = 0.3 * max(np.ptp(places[:, 0]), 1.0), 0.05 * max(np.ptp(places[:, 1]), 1.0)
    taken: list[tuple[float, float]] = []
    for x, y in places:
        level = float(y)
        while any(abs(x - a) < wide and abs(level - b) < high for a, b in taken):
            level += high
        taken.append((float(x), level))
    return [Note(cut_off(name, 34), *place) for name, place in zip(names, taken, strict=True)]


def _decades(logs: Array) -> tuple[list[float], list[str]]:
    low, high = np.floor(np.nanmin(logs)), np.ceil(np.nanmax(logs))
    places = np.arange(low, high + 1).tolist()
    return places, [f"{10.0**place:g}" for place in places]


def _unbeaten(rows: Array) -> NDArray[np.bool_]:
    # Nothing that costs as little or less loses less.
    cheaper = rows[None, :, 0] <= rows[:, None, 0]
    better = rows[None, :, 1] < rows[:, None, 1]
    return np.asarray(~(cheaper & better).any(axis=1))


def histories_chart(histories: Mapping[str, Array], *, title: str, label: str) -> Chart:
    """What trainings recorded, one line each; logarithmic where they span a decade."""
    every = np.concatenate([np.empty(0), *histories.values()])
    is_log = bool(every.size and every.min() > 0 and every.max() > 10 * every.min())
    layers = [
        Line(
            1 + np.arange(len(values)),
            np.log10(values) if is_log else values,
            color=HUES[k % len(HUES)],
            name=cut_off(name, 30),
        )
        for k, (name, values) in enumerate(histories.items())
    ]
    y = Axis(label, ticks=_decades(np.log10(every)) if is_log else None)
    return Chart(title, Axis("epoch", is_whole=True), y, tuple(layers))


def calibration_chart(
    short: Array, long: Array, line: Array, *, title: str, labels: tuple[str, str]
) -> Chart:
    """Measured points, the line through them, and its prediction intervals.

    Args:
        short: first coordinates of the measured points.
        long: second ones.
        line: rows of (x, expected, lower, upper), x growing.
        title: what is shown.
        labels: of the two axes.

    Returns:
        The chart.
    """
    x, expected, lower, upper = np.asarray(line, dtype=np.float64).T
    band = np.concatenate([x, x[::-1]]), np.concatenate([lower, upper[::-1]])
    layers = (
        Area(*band, style.BASIN, opacity=0.2, name="95 % interval of one candidate"),
        Line(x, expected, color=style.BASIN, name="expected"),
        Points(short, long, color=style.PATH, name="trained to the end"),
    )
    return Chart(title, Axis(labels[0]), Axis(labels[1]), layers)
