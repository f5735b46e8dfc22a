"""What a survey says of its map: heights, walls, errors, the way of training."""

import math

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.grids import known_errors
from lossatlas.plots.marks import Mark, landmarks
from lossatlas.surveys import Survey
from lossatlas.text import count, cut_off, number, percent


def read_center(survey: Survey) -> list[str]:
    """How the weights themselves compare with the lowest point of the map."""
    if not math.isfinite(survey.loss.value):
        return ["The loss at the weights themselves is not finite."]
    flat = lowest_index(survey.landscape)
    lowest = float(survey.landscape.values.ravel()[flat])
    lower = survey.loss.value - lowest
    if lower <= 1e-9 * max(abs(lowest), 1.0):
        return ["The weights themselves are the lowest point of the map."]
    text = f"The lowest point of the map lies {number(lower, 2)} below the weights themselves"
    # The lowest of many points is low by luck too: only a bound on all at once will do.
    bound = survey.tree.threshold
    if not bound > 0:
        return [f"{text}; whether that is more than its error is not known."]
    if lower <= bound:
        return [f"{text}, which is within the error of the map ({number(bound, 2)} at 95 %)."]
    return [f"{text}, more than its error: there is better ground within this map."]


def lowest_index(landscape: Landscape) -> int:
    """Flat index of the lowest finite point."""
    return int(np.where(landscape.finite, landscape.values, np.inf).argmin())


def read_lowest(survey: Survey) -> list[str]:
    """Whether the lowest point lies on the edge of the map."""
    land = survey.landscape
    place = np.unravel_index(lowest_index(land), land.values.shape)
    on_edge = any(
        i in {0, size - 1} for i, size in zip(place, land.values.shape, strict=True) if size > 2
    )
    if not on_edge:
        return []
    return [
        "The lowest point lies on the edge of the map, so the basin may be deeper outside; "
        "widen the span."
    ]


def read_range(survey: Survey) -> list[str]:
    """Over what the loss ranges, against the error of one value."""
    land = survey.landscape
    finite = land.values[land.finite]
    low, high = float(finite.min()), float(finite.max())
    text = f"The loss on the map goes from {number(low, 3)} to {number(high, 3)}"
    errors = land.stderr[known_errors(land)]
    if not errors.size or errors.max() == 0:
        return [f"{text}."]
    times = (high - low) / float(errors.max())
    return [f"{text}, a range of {number(times, 2)} times its largest standard error."]


def read_walls(survey: Survey) -> list[str]:
    """How many points are not finite, and where."""
    land = survey.landscape
    walls = ~land.finite
    total = int(np.count_nonzero(walls))
    if not total:
        return []
    verb = "is" if total == 1 else "are"
    return [
        f"{total:,} of {walls.size:,} points {verb} not finite, {where_walls(land)}; they are "
        "left out of every number here, never filled."
    ]


def where_walls(landscape: Landscape) -> str:
    """Where on a map the loss is not finite."""
    walls = ~landscape.finite
    sides = []
    for axis, label in enumerate(landscape.labels):
        others = tuple(k for k in range(walls.ndim) if k != axis)
        side = _side(np.asarray(walls.any(axis=others)))
        if side:
            sides.append(f"'{cut_off(label, 40)}' is {side}")
    if len(sides) == walls.ndim and walls.ndim > 1:
        return f"in the corner where {' and '.join(sides)}"
    if sides:
        return f"along the side where {' and '.join(sides)}"
    return "scattered over the map" if _touches_all_sides(walls) else "inside the map"


def _side(present: NDArray[np.bool_]) -> str:
    found = np.flatnonzero(present)
    first, last, size = int(found[0]), int(found[-1]), present.size
    if first == 0 and last < size / 2:
        return "least"
    return "greatest" if last == size - 1 and first >= size / 2 else ""


def _touches_all_sides(walls: NDArray[np.bool_]) -> bool:
    return any(
        bool(np.take(walls, end, axis).any()) for axis in range(walls.ndim) for end in (0, -1)
    )


def read_trajectory(survey: Survey) -> list[str]:
    """How far each landmark lies off the plane, what that hides, whether it leaves the map."""
    return [
        sentence
        for mark in landmarks(survey.landscape)
        for sentence in _read_mark(survey, mark)
    ]


def _read_mark(survey: Survey, mark: Mark) -> list[str]:
    name, total = cut_off(mark.name, 40), len(mark.points)
    sentences = []
    known = mark.residual[np.isfinite(mark.residual)]
    if known.size:
        sentences.append(f"The {name} {_off_plane(float(known.max()))}{_hidden(mark)}.")
    outside = _outside(survey.landscape, mark.points)
    if outside:
        verb = "lies" if outside == 1 else "lie"
        points = count(total, "point")
        sentences.append(f"{outside} of the {points} of the {name} {verb} outside the map.")
    return sentences


def _off_plane(worst: float) -> str:
    if worst < 1e-9:
        return "lies in this plane"
    if worst < 0.3:
        return f"lies up to {percent(worst)} off this plane"
    return f"lies up to {percent(worst)} off this plane, so that what is drawn is its shadow"


def _hidden(mark: Mark) -> str:
    # What the picture gets wrong: the loss at the points themselves against the map below.
    gaps = np.abs(mark.seen - mark.ground)
    gaps = gaps[np.isfinite(gaps)]
    if not gaps.size or not np.isfinite(mark.residual).any() or mark.residual.max() < 1e-9:
        return ""
    largest, median = number(float(gaps.max()), 2), number(float(np.median(gaps)), 2)
    return (
        "; the loss at its points differs from the map beneath by up to "
        f"{largest} (median {median})"
    )


def _outside(landscape: Landscape, points: NDArray[np.float64]) -> int:
    outside = np.zeros(len(points), dtype=np.bool_)
    for axis, coordinate in zip(landscape.axes, np.asarray(points).T, strict=True):
        slack = 1e-9 * (axis[-1] - axis[0])
        outside |= (coordinate < axis[0] - slack) | (coordinate > axis[-1] + slack)
    return int(np.count_nonzero(outside))


def read_errors(survey: Survey) -> list[str]:
    """How large the sampling errors are, or why there are none."""
    land = survey.landscape
    errors = land.stderr[known_errors(land)]
    if not errors.size:
        why = survey.loss.why_no_error or "none was estimated"
        return [f"The map has no standard errors: {why}."]
    size = f"{survey.loss.samples:,} {survey.loss.sample_unit}"
    return [
        f"A value of the map has a standard error of {number(float(np.median(errors)), 2)} "
        f"(median; at most {number(float(errors.max()), 2)}), from {size}."
    ]


def read_interpolation(survey: Survey) -> list[str]:
    """What was computed, what interpolated, and how well."""
    land = survey.landscape
    total, computed = land.values.size, int(np.count_nonzero(land.computed))
    if computed == total:
        return [f"Every one of the {total:,} points was computed."]
    text = f"{computed:,} of {total:,} points were computed and the rest interpolated"
    if not land.held_out:
        return [f"{text}; the error of that was not measured."]
    share = f" ({percent(land.interpolation_error / land.range)} of the range)"
    return [
        f"{text}; each of {count(land.held_out, 'computed point')} was predicted from the "
        "others. By that the largest error of an interpolated point is at most "
        f"{number(land.interpolation_error, 2)}{share if land.range > 0 else ''} "
        f"(95 % confidence), and {number(land.interpolation_rms, 2)} root mean square."
    ]
