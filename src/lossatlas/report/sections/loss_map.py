"""The map itself: surface, contour, standard error; for a line its band, for a box its cuts."""

from dataclasses import replace

import numpy as np

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.grids import cut, known_errors
from lossatlas.plots.interactive import contour_figure, stderr_figure, surface_figure
from lossatlas.plots.interactive_others import box_figure, line_figure
from lossatlas.plots.marks import landmarks, marked_minima
from lossatlas.plots.scale import scale_of
from lossatlas.report.contents import Number, Picture, Section, Tile
from lossatlas.report.readings_map import (
    lowest_index,
    read_center,
    read_lowest,
    read_range,
    read_trajectory,
    read_walls,
)
from lossatlas.report.sections.numbers import GEOMETRY, mapped, measured
from lossatlas.result import Estimate, Figure, Reference
from lossatlas.surveys import Survey
from lossatlas.text import cut_off, number, surely, with_error

DIFFERENCE = "a difference on the same examples, whose errors go together in an unknown way"
_MOST_METRICS = 4
_LOG = " Heights and colors are logarithmic above the lowest loss."

_FILTERS = Reference(
    "map on filter-normalized random directions",
    "H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein. Visualizing the Loss Landscape of "
    "Neural Nets. NeurIPS 2018.",
    "https://arxiv.org/abs/1712.09913",
)


def loss_map_section(survey: Survey) -> Section:
    """The map of a survey.

    Args:
        survey: the survey.

    Returns:
        Pictures that fit its dimension, the loss at the weights, heights and metrics.
    """
    readers = (read_center, read_lowest, read_range, read_walls, read_trajectory)
    return Section(
        key="map",
        title="The map",
        lead=_lead(survey.landscape),
        sentences=tuple(sentence for reader in readers for sentence in reader(survey)),
        tiles=_tiles(survey),
        figures=_pictures(survey),
        estimates=_numbers(survey),
        references=(_FILTERS,),
    )


def _lead(landscape: Landscape) -> str:
    labels = " and ".join(f"“{cut_off(label, 40)}”" for label in landscape.labels)
    return (
        f"The loss around the weights, which lie at zero, along {labels}. Coordinates count "
        "lengths of these directions."
    )


def _tiles(survey: Survey) -> tuple[Tile, ...]:
    numbers = {"loss": survey.loss, **survey.metrics}
    tiles = []
    for name, found in list(numbers.items())[:3]:
        value, _, error = with_error(found.value, found.stderr).partition(" ± ")
        detail = f"± {error}, at the weights" if error else "at the weights, no error known"
        tiles.append(Tile(cut_off(name, 24), value, detail))
    return tuple(tiles)


def _pictures(survey: Survey) -> tuple[Figure, ...]:
    return {1: _line, 2: _plane, 3: _box}[survey.landscape.values.ndim](survey)


def _line(survey: Survey) -> tuple[Figure, ...]:
    land = survey.landscape
    return (
        Picture(
            "Loss along the line",
            line_figure(land, tree=survey.tree),
            "The band holds each value alone with 95 % probability." + _scale_note(land),
            f"Line plot of the loss. {_extremes(land)}",
            wide=True,
        ),
    )


def _plane(survey: Survey) -> tuple[Figure, ...]:
    land = survey.landscape
    names = [mark.name for mark in landmarks(land)]
    marks = "".join(f", with the {cut_off(name, 40)} drawn on it" for name in names)
    surface = Picture(
        "Loss surface",
        surface_figure(land, tree=survey.tree),
        f"Drag to turn, scroll to come nearer; point at the ground to read a loss and its "
        f"error.{_scale_note(land)}",
        f"Three-dimensional surface of the loss{marks}. {_extremes(land)}",
        wide=True,
    )
    contour = Picture(
        "From above",
        contour_figure(land, tree=survey.tree),
        _mark_note(survey) + _wall_note(land),
        f"Contour map of the loss{marks}. {_extremes(land)}",
    )
    return surface, contour, _errors(land), *_metrics(land)


def _metrics(land: Landscape) -> tuple[Figure, ...]:
    pictures = []
    for name in list(land.metrics)[:_MOST_METRICS]:
        nothing = np.full(land.values.shape, np.nan)
        values, errors = land.metrics[name], land.metric_stderr.get(name, nothing)
        metric = replace(land, values=values, stderr=errors)
        pictures.append(
            Picture(
                f"{cut_off(name, 40)} from above",
                contour_figure(metric, quantity=name),
                _about_metric(land) + _wall_note(metric),
                f"Contour map of {cut_off(name, 40)}.",
            )
        )
    return tuple(pictures)


def _about_metric(land: Landscape) -> str:
    told = "A further metric at the same points; dark is high."
    if land.computed.all():
        return told
    return (
        f"{told} Between the computed points (dots) it is interpolated, and its error there is "
        "not measured: points were chosen for the loss. adaptive=False computes all of them."
    )


def _errors(land: Landscape) -> Figure:
    known = known_errors(land)
    if not known.any():
        caption, alt = "This map has no standard errors.", "An empty map: no errors are known."
    else:
        errors = land.stderr[known]
        low, high = number(float(errors.min()), 2), number(float(errors.max()), 2)
        caption = f"How sure each value is: one standard error, {low} to {high}."
        alt = f"Map of the standard error of the loss, from {low} to {high}."
        caption += _between(land)
    return Picture("Standard error", stderr_figure(land), caption, alt)


def _between(land: Landscape) -> str:
    if land.computed.all():
        return ""
    if (known_errors(land) == land.finite).all():
        return " Between computed points it is interpolated, too."
    return " Interpolated points show the error of the nearest computed one."


def _box(survey: Survey) -> tuple[Figure, ...]:
    land = survey.landscape
    whole = Picture(
        "The box, cut open",
        box_figure(land, tree=survey.tree),
        "Three planes through the lowest point. Drag to turn." + _scale_note(land),
        f"Three orthogonal planes colored by the loss. {_extremes(land)}",
        wide=True,
    )
    flat = [
        Picture(
            f"Plane at {cut_off(land.labels[axis], 30)} = {number(land.minimum[axis], 3)}",
            contour_figure(cut(land, axis)),
            "Through the lowest point." + _wall_note(land),
            f"Contour map of one plane of the box. {_extremes(cut(land, axis))}",
        )
        for axis in range(3)
    ]
    return (whole, *flat, _errors(cut(land, 2)))


def _mark_note(survey: Survey) -> str:
    minima = marked_minima(survey.landscape, survey.tree)
    marks = landmarks(survey.landscape)
    start = "The star stands at the origin. " if any(m.is_center for m in marks) else ""
    if any(mark.is_path for mark in marks):
        start = "The way of training ends at the star. "
    dips = "" if minima.certain.all() else ", dips within the error of the map gray"
    if survey.tree.why_unknown:
        return f"{start}Minima are gray: it is unknown which are certain."
    which = surely("minima", survey.tree.threshold).capitalize()
    return f"{start}{which} are yellow{dips}."


def _scale_note(land: Landscape) -> str:
    return _LOG if scale_of(land.values).is_log else ""


def _wall_note(land: Landscape) -> str:
    return "" if land.finite.all() else " Hatched: the loss is not finite there."


def _extremes(land: Landscape) -> str:
    finite = land.values[land.finite]
    if not finite.size:
        return "No value is finite."
    place = ", ".join(number(coordinate, 3) for coordinate in land.minimum)
    low, high = number(float(finite.min()), 3), number(float(finite.max()), 3)
    return f"Lowest loss {low} at ({place}), highest {high}."


def _numbers(survey: Survey) -> tuple[Estimate, ...]:
    land = survey.landscape
    at_weights = [
        measured("loss at the weights", survey.loss, "mean over the data, at zero on the map"),
        *(
            measured(f"{name} at the weights", found, "a further metric, same data")
            for name, found in survey.metrics.items()
        ),
    ]
    highest = int(np.where(land.finite, land.values, -np.inf).argmax())
    heights = [
        mapped(land, "lowest loss on the map", lowest_index(land)),
        mapped(land, "highest loss on the map", highest),
        Number("range of the map", land.range, why=DIFFERENCE, meaning="highest minus lowest"),
    ]
    return (*at_weights, *heights, *map(_off_plane, *_residuals(land)))


def _residuals(land: Landscape) -> tuple[list[str], list[float]]:
    found = land.landmark_residuals
    worst = [float(np.max(value[np.isfinite(value)], initial=0.0)) for value in found.values()]
    return list(found), worst


def _off_plane(name: str, worst: float) -> Estimate:
    title = f"{cut_off(name, 40)}: farthest off the plane"
    meaning = "share of its distance from the weights"
    return Number(title, 100 * worst, why=GEOMETRY, unit="%", meaning=meaning)
