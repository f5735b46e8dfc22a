"""What a survey says, in plain sentences, and no more than it can say."""

from collections.abc import Callable

from lossatlas.report.readings_map import (
    read_center,
    read_errors,
    read_interpolation,
    read_lowest,
    read_range,
    read_trajectory,
    read_walls,
)
from lossatlas.report.readings_topology import (
    Basins,
    count_basins,
    is_flat,
    read_basins,
    read_resolution,
    read_ridges,
)
from lossatlas.surveys import Survey
from lossatlas.text import count, number

Reader = Callable[[Survey], list[str]]


def read_instruments(survey: Survey) -> list[str]:
    """What the chief instruments say; the others speak in their sections."""
    chief = [found for found in survey.findings.values() if found.about.headline]
    return [sentence for found in chief for sentence in found.sentences()]


def read_unavailable(survey: Survey) -> list[str]:
    """Which instruments could not measure anything."""
    lost = [found.about.title for found in survey.findings.values() if found.why_not]
    return [f"Not measured, with the reason below: {', '.join(lost)}."] if lost else []


READERS: tuple[Reader, ...] = (
    read_basins,
    read_ridges,
    read_resolution,
    read_center,
    read_lowest,
    read_range,
    read_walls,
    read_trajectory,
    read_instruments,
    read_unavailable,
    read_errors,
    read_interpolation,
)


def headline(survey: Survey) -> str:
    """The survey in one sentence.

    Args:
        survey: the survey.

    Returns:
        How many basins there are and how sure that is.
    """
    if survey.landscape.range == 0:
        return "The loss is the same everywhere on this map."
    if is_flat(survey):
        return "Flat within its error: nothing on this map is certain."
    found = count_basins(survey)
    if found.total == 1:
        return "One basin at this scale."
    if not found.judged:
        return f"{count(found.total, 'basin')} on this map, of unknown certainty."
    return _verdict(found, number(survey.tree.threshold, 2))


def _verdict(found: Basins, bound: str) -> str:
    rest = found.total - found.certain
    if not rest:
        return f"{count(found.total, 'basin')}, all deeper than the 95 % bound of {bound}."
    if found.certain == 1:
        return "One basin is certain; every other dip is within the error of the map."
    return (
        f"{found.certain} basins are certain, {rest} more {'is' if rest == 1 else 'are'} not."
    )


def reading(survey: Survey) -> list[str]:
    """Everything that can be said in words about a survey.

    Args:
        survey: the survey.

    Returns:
        Sentences, the most important first.
    """
    return [sentence for reader in READERS for sentence in reader(survey)]
