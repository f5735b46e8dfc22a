"""Sentences on what a map shows and how accurate it is."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.adaptive import extremes
from lossatlas.landscape.known_values import computed_values, sampling_errors
from lossatlas.plots import grid
from lossatlas.text import count, cut_off, distinct, number, percent

if TYPE_CHECKING:
    from lossatlas.landscape.landscape import Landscape

Array = NDArray[np.float64]


def loss_sentences(land: "Landscape") -> tuple[str, ...]:
    """Where the loss is lowest, its range, and where it is not finite."""
    return (*_lowest(land), *_range(land), *_nonfinite(land), *_landmarks(land))


def sampling_sentences(land: "Landscape") -> tuple[str, ...]:
    """Size of the sampling errors, and what was interpolated."""
    return (_errors(land), _interpolation(land))


def _lowest(land: "Landscape") -> list[str]:
    losses = computed_values(land)
    if not np.isfinite(losses).any():
        return []
    index = np.unravel_index(np.nanargmin(losses), losses.shape)
    sides = zip(index, losses.shape, strict=True)
    if not any(i in {0, size - 1} for i, size in sides if size > 2):
        return []
    # An interpolated point that is surely lower takes the lowest point off the edge.
    if land.values[land.finite].min() + land.interpolation_error < losses[index]:
        return []
    return [
        "The lowest point lies on the edge of the map, so the basin may be deeper outside; "
        "widen the span."
    ]


def _range(land: "Landscape") -> list[str]:
    if not land.finite.any():
        return ["The loss is not finite at any point of the map."]
    low, high = (float(land.values.flat[k]) for k in (land.lowest, land.highest))
    start = "losses" if land.computed.all() else "computed losses"
    if low == high:
        return [f"All {start} on the map are {number(low, 3)}."]
    text = "The {} on the map range from {} to {}".format(start, *distinct(low, high))
    errors = sampling_errors(land)
    if not errors.size or errors.max() == 0:
        return [f"{text}."]
    times = (high - low) / float(errors.max())
    return [f"{text}; that range is {number(times, 2)} times the largest standard error."]


def _nonfinite(land: "Landscape") -> list[str]:
    lost = ~land.finite
    total = int(np.count_nonzero(lost))
    if not total:
        return []
    verb = "is" if total == 1 else "are"
    return [
        f"{total:,} of {lost.size:,} points {verb} not finite, {_where(land, lost)}; they are "
        "left out of every number here, never filled."
    ]


def _where(land: "Landscape", lost: NDArray[np.bool_]) -> str:
    sides = []
    for axis, label in enumerate(land.labels):
        other_axes = tuple(k for k in range(lost.ndim) if k != axis)
        side = _side(np.asarray(lost.any(axis=other_axes)))
        if side:
            sides.append(f"'{cut_off(label, 40)}' is {side}")
    if len(sides) == lost.ndim and lost.ndim > 1:
        return f"in the corner where {' and '.join(sides)}"
    if sides:
        return f"along the side where {' and '.join(sides)}"
    ends = [np.take(lost, end, axis) for axis in range(lost.ndim) for end in (0, -1)]
    return "scattered over the map" if any(map(np.any, ends)) else "inside the map"


def _side(present: NDArray[np.bool_]) -> str:
    indices = np.flatnonzero(present)
    first, last, size = int(indices[0]), int(indices[-1]), present.size
    if first == 0 and last < size / 2:
        return "least"
    return "greatest" if last == size - 1 and first >= size / 2 else ""


def _landmarks(land: "Landscape") -> list[str]:
    return [text for mark in grid.landmarks(land) for text in _landmark(land, mark)]


def _landmark(land: "Landscape", mark: grid.Landmark) -> list[str]:
    name = cut_off(mark.name, 40)
    sentences = []
    residuals = mark.residual[np.isfinite(mark.residual)]
    if residuals.size:
        sentences.append(f"The {name} {_off_plane(float(residuals.max()))}{_hidden(mark)}.")
    outside = _outside(land, mark.points)
    if outside:
        verb, points = "lies" if outside == 1 else "lie", count(len(mark.points), "point")
        sentences.append(f"{outside} of the {points} of the {name} {verb} outside the map.")
    return sentences


def _off_plane(worst: float) -> str:
    if worst < 1e-9:
        return "lies in this plane"
    text = f"lies up to {percent(worst)} off this plane"
    return text if worst < 0.3 else f"{text}, so that the map shows its projection"


def _hidden(mark: grid.Landmark) -> str:
    # What the picture gets wrong: the loss at the points themselves against the map below.
    gaps = np.abs(mark.seen - mark.below)
    gaps = gaps[np.isfinite(gaps)]
    if not gaps.size or not np.isfinite(mark.residual).any() or mark.residual.max() < 1e-9:
        return ""
    largest, median = number(float(gaps.max()), 2), number(float(np.median(gaps)), 2)
    return (
        f"; the loss at its points differs from that of the map by up to {largest} "
        f"(median {median})"
    )


def _outside(land: "Landscape", points: Array) -> int:
    outside = np.zeros(len(points), dtype=np.bool_)
    for axis, coordinate in zip(land.axes, np.asarray(points).T, strict=True):
        slack = 1e-9 * (axis[-1] - axis[0])
        outside |= (coordinate < axis[0] - slack) | (coordinate > axis[-1] + slack)
    return int(np.count_nonzero(outside))


def _errors(land: "Landscape") -> str:
    errors = sampling_errors(land)
    if not errors.size:
        why = f"a spread needs two {land.unit}; there is one" if land.count == 1 else ""
        return f"The map has no standard errors: {why or 'none was estimated'}."
    source = (
        f"{land.count:,} {land.unit}" if land.count else f"an unknown number of {land.unit}"
    )
    return (
        f"The losses on the map have a standard error of {number(float(np.median(errors)), 2)} "
        f"(median; at most {number(float(errors.max()), 2)}), from {source}."
    )


def _interpolation(land: "Landscape") -> str:
    total, computed = land.values.size, int(np.count_nonzero(land.computed))
    if computed == total:
        return f"All {total:,} points were computed."
    text = f"{computed:,} of {total:,} points were computed and the rest interpolated"
    if not land.held_out:
        return f"{text}; the error of the interpolation was not measured."
    share = f"{percent(land.interpolation_error / land.range)} of the range, "
    is_exact = not extremes(land.values, land.computed).any()
    exact = (
        " Its minima, lowest and highest points were computed; saddles between minima may be "
        "interpolated, with that error."
    )
    return (
        f"{text}. Each of {count(land.held_out, 'computed point')} was also predicted from the "
        "others: interpolated losses are off by "
        f"{number(land.interpolation_rms, 2)} (root mean square), and by at most "
        f"{number(land.interpolation_error, 2)} "
        f"({share if land.range > 0 else ''}95 % confidence)."
        f"{exact if is_exact else ''}"
    )
