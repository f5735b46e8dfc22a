"""Where the instruments meet: one survey, or two checkpoints side by side."""

from lossatlas.surveys.comparison import Comparison, compare
from lossatlas.surveys.survey import Survey, survey

__all__ = ["Comparison", "Survey", "compare", "survey"]
