"""Which statistics normalization layers use where a survey measures."""

from typing import TYPE_CHECKING

from lossatlas.curvature import InstrumentResult
from lossatlas.objective import Objective
from lossatlas.objective.point import tracks_statistics

if TYPE_CHECKING:
    from lossatlas.surveys.results import Survey

_KINDS = {
    "eval": "running statistics",
    "train": "batch statistics",
    "recalibrated": "recalibrated statistics",
}


def recorded_statistics(objective: Objective) -> dict[str, str]:
    """What a survey notes of them: the mode, for models whose layers keep statistics."""
    return {"statistics": objective.mode} if tracks_statistics(objective.model) else {}


def statistics_of(survey: "Survey", result: InstrumentResult | None = None) -> str:
    """Which statistics a map or an instrument was measured with.

    Args:
        survey: the survey.
        result: of an instrument; the map and the loss at the weights by default.

    Returns:
        As in "running statistics"; empty where no layer keeps any, or it was not noted.
    """
    kind = _KINDS.get(str(survey.provenance.settings.get("statistics")), "")
    parts = () if result is None or not kind else result.results.values()
    for part in parts:
        # Some instruments measure as a training does, whatever the mode of the survey.
        if getattr(part, "by_batch_statistics", False):
            return _KINDS["train"]
        if getattr(part, "by_running_statistics", False):
            return _KINDS["eval"]
    return kind
