"""Optimizers of recipes."""

import importlib

import torch
from torch import Tensor, nn

from lossatlas.errors import MissingDependencyError
from lossatlas.steering.optimizers import TopoAdamW
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import Recipe

INTERVAL = 25
# Short trainings leave no room for the 150 steps of the original.
PATIENCE = 50


def build(
    recipe: Recipe, problem: Problem, model: nn.Module, weights: list[Tensor], lr: float
) -> torch.optim.Optimizer:
    """The optimizer of a recipe.

    Args:
        recipe: names it, and its weight decay.
        problem: says the weight decay where the recipe does not.
        model: what a drop-in probes.
        weights: what is trained.
        lr: base rate.

    Returns:
        The optimizer.

    Raises:
        MissingDependencyError: it is another package's, and that is not installed.
    """
    decay = recipe.setting("decay", problem.decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=0.9, weight_decay=decay)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, lr=lr, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=lr, weight_decay=decay)
    if recipe.optimizer == "topoadamw":
        every = int(recipe.setting("interval", INTERVAL))
        return TopoAdamW(
            weights, model, lr=lr, weight_decay=decay, interval=every, warmup_steps=PATIENCE
        )
    try:
        others = importlib.import_module("pytorch_optimizer")
    except ImportError:
        raise MissingDependencyError(
            f"'{recipe.optimizer}' needs pytorch_optimizer; pip install pytorch_optimizer."
        ) from None
    made: torch.optim.Optimizer = (
        others.Prodigy(weights, lr=lr, weight_decay=decay)
        if recipe.optimizer == "prodigy"
        else others.ScheduleFreeAdamW(
            weights, lr=lr, weight_decay=decay, warmup_steps=problem.warmup
        )
    )
    return made
