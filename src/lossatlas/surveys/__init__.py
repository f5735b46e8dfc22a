"""Where the instruments meet: one survey, or two checkpoints side by side."""

from lossatlas.arguments import guard_exports
from lossatlas.surveys.along import survey_along
from lossatlas.surveys.axes import eigen_plane
from lossatlas.surveys.compare import compare
from lossatlas.surveys.comparison import Comparison
from lossatlas.surveys.results import Survey
from lossatlas.surveys.survey import survey

__all__ = [
    "Comparison",
    "Survey",
    "compare",
    "eigen_plane",
    "survey",
    "survey_along",
]

guard_exports(__name__)
