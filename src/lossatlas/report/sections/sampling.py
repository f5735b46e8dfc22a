"""What was computed, what was interpolated, and what it cost."""

import numpy as np

from lossatlas.plots.grids import known_errors
from lossatlas.report.contents import Number, Section, Tile
from lossatlas.report.readings_map import read_errors, read_interpolation
from lossatlas.report.sections.numbers import COUNT
from lossatlas.result import Estimate
from lossatlas.surveys import Survey
from lossatlas.text import number, percent

_BY = "\N{HAIR SPACE}\N{MULTIPLICATION SIGN}\N{HAIR SPACE}"
_CLOCK = "a clock, read once"


def sampling_section(survey: Survey) -> Section:
    """How the map of a survey came about.

    Args:
        survey: the survey.

    Returns:
        Computed and interpolated points, the measured error between them, time.
    """
    land = survey.landscape
    sentences = (*read_errors(survey), *read_interpolation(survey))
    computed = int(np.count_nonzero(land.computed))
    size = _BY.join(str(axis.size) for axis in land.axes)
    share = "all computed" if computed == land.values.size else f"{computed:,} computed"
    return Section(
        key="sampling",
        title="What was computed",
        lead="; ".join(_how(survey)) + ".",
        sentences=sentences,
        tiles=(
            Tile("points on the map", size, share),
            Tile("wall time", _duration(survey.seconds), f"{land.evaluations:,} evaluations"),
        ),
        estimates=_numbers(survey),
    )


def _how(survey: Survey) -> list[str]:
    land = survey.landscape
    engine = f"Engine: {land.engine}"
    return [engine, f"errors are over {land.unit}", f"{land.evaluations:,} evaluations"]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _numbers(survey: Survey) -> tuple[Estimate, ...]:
    land = survey.landscape
    walls, computed = ~land.finite, land.computed
    errors = land.stderr[known_errors(land)]
    rows = [
        Number("points on the map", land.values.size, why=COUNT),
        Number("computed points", int(computed.sum()), why=COUNT),
        Number("interpolated points", int((~computed).sum()), why=COUNT),
        Number("points that are not finite", int(walls.sum()), why=COUNT, meaning="left out"),
        Number("evaluations", land.evaluations, why=COUNT, meaning="all computed points"),
    ]
    if not computed.all():
        why = f"itself an error: {land.held_out:,} points, each predicted from the others"
        share = (
            f", {percent(land.interpolation_error / land.range)} of the range"
            if land.range > 0
            else ""
        )
        rows += [
            Number(
                "interpolation error, largest",
                land.interpolation_error,
                why=why,
                meaning=f"95 % bound{share}",
            ),
            Number("interpolation error, root mean square", land.interpolation_rms, why=why),
        ]
    if errors.size:
        why = "itself an error"
        rows += [
            Number("standard error, median", float(np.median(errors)), why=why),
            Number("standard error, largest", float(errors.max()), why=why),
        ]
    rows.append(Number("wall time", survey.seconds, why=_CLOCK, unit="s"))
    return tuple(rows)
