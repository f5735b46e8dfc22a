"""Which optimizer, controller or penalty is worth it: paired, tuned alike, with intervals."""

from lossatlas.arguments import guard_exports
from lossatlas.studies.compare.comparison import Comparison
from lossatlas.studies.compare.many import train_recipes
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import Recipe, parse_recipe
from lossatlas.studies.compare.run import compare
from lossatlas.studies.compare.statistics import Difference, paired
from lossatlas.studies.compare.training import SCORES, WEIGHTS, Training, run_training
from lossatlas.studies.compare.trainings import Trainings
from lossatlas.studies.compare.trial import MEASURES, READINGS, run_trial

__all__ = [
    "MEASURES",
    "READINGS",
    "SCORES",
    "WEIGHTS",
    "Comparison",
    "Difference",
    "Problem",
    "Recipe",
    "Training",
    "Trainings",
    "compare",
    "paired",
    "parse_recipe",
    "run_training",
    "run_trial",
    "train_recipes",
]

guard_exports(__name__)
