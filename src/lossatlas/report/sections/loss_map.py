"""The map of a survey, and how it was sampled."""

import math
from dataclasses import replace

import numpy as np

from lossatlas.curvature import Spectrum
from lossatlas.curvature.spectrum import SLIGHT_SADDLE
from lossatlas.landscape.known_values import computed_values, sampling_errors
from lossatlas.report.contents import Card, Section, Tile
from lossatlas.report.frames import has_surface
from lossatlas.result import Estimate, Figure
from lossatlas.surveys import Survey
from lossatlas.surveys.along import weights_at
from lossatlas.surveys.statistics import statistics_of
from lossatlas.text import cut_off, number, with_error

_MAX_HERO = 3
_SHAPES = {1: "line", 2: "plane", 3: "box"}
_FEW_DIRECTIONS = (
    "The map holds few of all directions: whether the loss curves downhill off it is not known "
    "(the instrument “curvature” tells)."
)
_TIMES = "\N{HAIR SPACE}\N{MULTIPLICATION SIGN}\N{HAIR SPACE}"


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
        lead=_lead(survey),
        sentences=(*read_center(survey), *land.loss_sentences()),
        tiles=_tiles(survey),
        figures=_figures(survey),
        estimates=(*_at_weights(survey), *survey.map_estimates()),
        references=land.cited(),
    )


def hero_figures(survey: Survey) -> tuple[Figure, ...]:
    """The pictures at the head of a page whose survey is no plane."""
    return () if has_surface(survey) else survey.landscape.figures(survey.tree)[:_MAX_HERO]


def _figures(survey: Survey) -> tuple[Figure, ...]:
    figures = survey.landscape.figures(survey.tree)
    return figures if has_surface(survey) else figures[_MAX_HERO:]


def read_center(survey: Survey) -> tuple[str, ...]:
    """How the weights themselves compare with the lowest point of the map."""
    return arrival_question(survey).sentences


def arrival_question(survey: Survey) -> Card:
    """Whether the weights are the lowest point of the map, within its errors."""
    value, mark, sentence = _lowest_answer(survey)
    sentences: tuple[str, ...] = (sentence,)
    if value.startswith(("yes", "within")):
        value, mark, more = _off_map(survey, value, mark)
        sentences = (sentence, more)
    return Card("Are the weights at the bottom?", value, mark=mark, sentences=sentences)


# What a map cannot show: the loss may curve downhill in directions that it does not hold.
def _off_map(survey: Survey, value: str, mark: str) -> tuple[str, str, str]:
    here = f"of this {_SHAPES.get(survey.landscape.values.ndim, 'map')}"
    limited = f"{here}, {value}" if value.startswith("yes") else f"{value} {here}"
    spectrum = _spectrum(survey)
    if spectrum is None:
        return limited, mark, _FEW_DIRECTIONS
    if math.isnan(spectrum.saddle_ratio):
        return limited, "", "Whether the loss curves downhill off the map is not known."
    low = spectrum.saddle_range[0]
    if low == 0:
        return value, mark, "No direction off the map curves downhill beyond the error either."
    is_slight = low < SLIGHT_SADDLE
    how = "slightly downhill" if is_slight else "downhill"
    more = (
        f"Off it the loss curves {how}: the lowest eigenvalue of the Hessian is negative "
        "beyond its error bound."
    )
    return f"{limited}; but the loss curves {how} off it", "" if is_slight else "alarm", more


def _spectrum(survey: Survey) -> Spectrum | None:
    parts = (part for result in survey.findings.values() for part in result.results.values())
    return next((p for p in parts if isinstance(p, Spectrum) and len(p.bottom)), None)


def _lowest_answer(survey: Survey) -> tuple[str, str, str]:
    if not math.isfinite(survey.loss.value):
        return "no", "alarm", "The loss at the weights themselves is not finite."
    gap = survey.lowest
    if gap is not None and (gap.why_no_error is None or gap.stderr == 0):
        return _paired_lowest_answer(gap)
    lowest = float(np.nanmin(computed_values(survey.landscape)))
    lower = survey.loss.value - lowest
    if lower <= 1e-9 * max(abs(lowest), 1.0):
        return "yes", "sure", "The weights themselves are the lowest point of the map."
    text = f"The lowest point of the map lies {number(lower, 2)} below the weights themselves"
    # The lowest of many points is low by luck too: only a bound on all at once will do.
    bound = survey.tree.threshold
    if not bound > 0:
        return "not known", "", f"{text}; whether that is more than its error is not known."
    if lower <= bound:
        error = f"which is within the error of the map ({number(bound, 2)} at 95 %)"
        return "within the error", "", f"{text}, {error}."
    more = f"{text}, more than its error: this map holds points of lower loss."
    return f"no: {number(lower, 2)} lower nearby", "alarm", more


def _paired_lowest_answer(gap: Estimate) -> tuple[str, str, str]:
    if gap.value >= 0:
        text = "No computed point of the map lies below the weights themselves"
        if gap.value > 0:
            text += ", which lie between computed points; the lowest is "
            text += f"{with_error(gap.value, gap.stderr)} higher"
        return "yes", "sure", f"{text}."
    low, high = gap.interval()
    lower, interval = number(-gap.value, 2), f"[{number(-high, 2)}, {number(-low, 2)}]"
    text = (
        f"The lowest computed point of the map lies {lower} below the weights on the same "
        f"{gap.sample_unit}, 95 % interval {interval}, which allows for its choice among all "
        "points"
    )
    if high < 0:
        span = f"{number(-high, 2)} to {number(-low, 2)}"
        value = f"no: the map goes {lower} lower ({span})"
        return value, "alarm", f"{text}: this map holds a lower loss."
    return (
        "yes, within the error",
        "",
        f"{text}: not distinguishable from the loss at the weights.",
    )


def trust_question(survey: Survey) -> Card:
    """How large the errors of the map are, and what they come from."""
    land = survey.landscape
    errors = sampling_errors(land)
    size = f"{land.count:,} {land.unit}" if land.count else land.unit
    value = (
        f"± {number(float(np.median(errors)), 2)} (median), from {size}"
        if errors.size
        else "no error known"
    )
    return Card("How far can I trust the map?", value, sentences=land.sampling_sentences())


def _lead(survey: Survey) -> str:
    labels = " and ".join(f"“{cut_off(label, 40)}”" for label in survey.landscape.labels)
    at = weights_at(survey)
    where = ", ".join(number(float(c), 3) for c in at) if at.any() else "zero"
    return (
        f"The loss around the weights, which lie at {where}, along {labels}. Coordinates count "
        f"lengths of these directions.{_principal(survey)}{_statistics(survey)}"
    )


def _statistics(survey: Survey) -> str:
    kind = statistics_of(survey)
    return f" Normalization layers use {kind} on the map and at the weights." if kind else ""


def _principal(survey: Survey) -> str:
    is_path = any(label.startswith("PC ") for label in survey.landscape.labels)
    text = " PC: principal component of the checkpoints, with the share of their spread on it."
    return text if is_path else ""


def _tiles(survey: Survey) -> tuple[Tile, ...]:
    estimates = {"loss": survey.loss, **survey.metrics}
    tiles = []
    for name, shown in list(estimates.items())[:3]:
        value, error = shown.texts
        label = f"{cut_off(name, 24)} at the weights"
        tiles.append(Tile(label, value, error or "no error known"))
    return tuple(tiles)


def _at_weights(survey: Survey) -> tuple[Estimate, ...]:
    loss = _named(survey.loss, "loss", "mean over the data, at zero on the map")
    further = "a further metric, same data"
    metrics = [_named(estimate, name, further) for name, estimate in survey.metrics.items()]
    return loss, *metrics, *(() if survey.lowest is None else (survey.lowest,))


def _named(estimate: Estimate, name: str, meaning: str) -> Estimate:
    why = estimate.why_no_error or (None if math.isfinite(estimate.stderr) else "not estimated")
    title = cut_off(f"{name} at the weights")
    return replace(estimate, name=title, meaning=meaning, why_no_error=why)


def sampling_section(survey: Survey) -> Section:
    """How the map of a survey came about.

    Args:
        survey: the survey.

    Returns:
        Computed and interpolated points, the measured error between them, time.
    """
    land = survey.landscape
    computed = int(land.computed.sum())
    size = _TIMES.join(str(axis.size) for axis in land.axes)
    share = "all computed" if computed == land.values.size else f"{computed:,} computed"
    why = "a clock, read once"
    clock = Estimate(survey.seconds, why_no_error=why, name="wall time", unit="s")
    return Section(
        key="sampling",
        title="What was computed",
        lead=f"{size} points, {share}, in {_duration(survey.seconds)}. Engine: {land.engine}; "
        f"errors are over {land.unit}.",
        sentences=land.sampling_sentences(),
        estimates=(*land.sampling_estimates(), clock),
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
