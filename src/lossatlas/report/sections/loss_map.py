"""The map of a survey, and how it was sampled."""

import math
from dataclasses import replace

import numpy as np

from lossatlas.landscape.landscape import Landscape, computed_values
from lossatlas.report.contents import Section, Tile
from lossatlas.result import Estimate
from lossatlas.surveys import Survey
from lossatlas.text import cut_off, number

_BY = "\N{HAIR SPACE}\N{MULTIPLICATION SIGN}\N{HAIR SPACE}"


def loss_map_section(survey: Survey) -> Section:
    """The map of a survey.

    Args:
        survey: the survey.

    Returns:
        Pictures that fit its dimension, the loss at the weights, heights and metrics.
    """
    land = survey.landscape
    return Section(
        key="map",
        title="The map",
        lead=_lead(land),
        sentences=(*read_center(survey), *land.loss_sentences()),
        tiles=_tiles(survey),
        figures=land.figures(survey.tree),
        estimates=(*_at_weights(survey), *land.loss_estimates()),
        references=land.references,
    )


def read_center(survey: Survey) -> list[str]:
    """How the weights themselves compare with the lowest point of the map."""
    if not math.isfinite(survey.loss.value):
        return ["The loss at the weights themselves is not finite."]
    lowest = float(np.nanmin(computed_values(survey.landscape)))
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
    return [f"{text}, more than its error: this map holds points of lower loss."]


def _lead(landscape: Landscape) -> str:
    labels = " and ".join(f"“{cut_off(label, 40)}”" for label in landscape.labels)
    return (
        f"The loss around the weights, which lie at zero, along {labels}. Coordinates count "
        "lengths of these directions."
    )


def _tiles(survey: Survey) -> tuple[Tile, ...]:
    found = {"loss": survey.loss, **survey.metrics}
    tiles = []
    for name, shown in list(found.items())[:3]:
        value, error = shown.texts
        detail = f"{error}, at the weights" if error else "at the weights, no error known"
        tiles.append(Tile(cut_off(name, 24), value, detail))
    return tuple(tiles)


def _at_weights(survey: Survey) -> tuple[Estimate, ...]:
    loss = _named(survey.loss, "loss", "mean over the data, at zero on the map")
    further = "a further metric, same data"
    metrics = [_named(found, name, further) for name, found in survey.metrics.items()]
    return loss, *metrics


def _named(found: Estimate, name: str, meaning: str) -> Estimate:
    why = found.why_no_error or (None if math.isfinite(found.stderr) else "not estimated")
    title = cut_off(f"{name} at the weights")
    return replace(found, name=title, meaning=meaning, why_no_error=why)


def sampling_section(survey: Survey) -> Section:
    """How the map of a survey came about.

    Args:
        survey: the survey.

    Returns:
        Computed and interpolated points, the measured error between them, time.
    """
    land = survey.landscape
    computed = int(land.computed.sum())
    size = _BY.join(str(axis.size) for axis in land.axes)
    share = "all computed" if computed == land.values.size else f"{computed:,} computed"
    why = "a clock, read once"
    clock = Estimate(survey.seconds, why_no_error=why, name="wall time", unit="s")
    return Section(
        key="sampling",
        title="What was computed",
        lead=f"Engine: {land.engine}; errors are over {land.unit}; {land.evaluations:,} "
        "evaluations.",
        sentences=land.sampling_sentences(),
        tiles=(
            Tile("points on the map", size, share),
            Tile("wall time", _duration(survey.seconds), f"{land.evaluations:,} evaluations"),
        ),
        estimates=(*land.sampling_estimates(), clock),
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
