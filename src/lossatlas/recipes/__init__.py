"""Recipes (optimizer, schedule, controller, penalties), compared by seed and across widths."""

from lossatlas.arguments import guard_exports
from lossatlas.recipes.averages import AVERAGES
from lossatlas.recipes.differences import effect_size, paired, verdict
from lossatlas.recipes.recipe import Recipe, parse_recipe
from lossatlas.recipes.run import SCORES, Run, run_recipe
from lossatlas.recipes.runs import Runs
from lossatlas.recipes.setup import TrainingSetup
from lossatlas.recipes.summary import RecipeSummary
from lossatlas.recipes.train import train_recipes
from lossatlas.recipes.transfer import Scaling, TransferCheck, transfer_check

__all__ = [
    "AVERAGES",
    "SCORES",
    "Recipe",
    "RecipeSummary",
    "Run",
    "Runs",
    "Scaling",
    "TrainingSetup",
    "TransferCheck",
    "effect_size",
    "paired",
    "parse_recipe",
    "run_recipe",
    "train_recipes",
    "transfer_check",
    "verdict",
]

guard_exports(__name__)
