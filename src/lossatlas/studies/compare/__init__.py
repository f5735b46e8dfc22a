"""Which optimizer, controller or penalty is worth it: paired, tuned alike, with intervals."""

from lossatlas.studies.compare.comparison import Comparison
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import Recipe, parse_recipe
from lossatlas.studies.compare.run import compare
from lossatlas.studies.compare.statistics import Difference, paired
from lossatlas.studies.compare.trial import MEASURES, READINGS, run_trial

__all__ = [
    "MEASURES",
    "READINGS",
    "Comparison",
    "Difference",
    "Problem",
    "Recipe",
    "compare",
    "paired",
    "parse_recipe",
    "run_trial",
]
