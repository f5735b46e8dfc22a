"""Which way of steering the rate is worth it: every recipe, rate, seed and horizon."""

from pathlib import Path
from typing import Any

import numpy as np
from problems import cifar, mnist

from lossatlas.recipes import Runs, train_recipes

GUESSES = {
    "mnist": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "cifar": (1e-4, 1e-3, 3e-3, 1e-2, 1e-1),
}
# What a guess costs is averaged over these, evenly spaced; all are there to choose from.
SPREAD = {"mnist": GUESSES["mnist"], "cifar": (1e-4, 1e-3, 1e-2, 1e-1)}
# At every rate, because the questions are about these.
MAIN = ("adamw", "adamw+cosine", "schedulefree")
# Beside them, at the rates that did best in a trial on other rows.
FEW = {"mnist": (3e-3, 1e-2, 3e-2), "cifar": (3e-3, 1e-2)}
MORE = ("adamw+wsd", "adamw+compat", "adamw+cooldown")
# Prodigy's own rate is 1; of the policy that leaves its rate, both ends.
FREE = {"prodigy": (1.0,), "adamw+growth": (1e-4, 1e-1)}
HORIZONS = (125, 250, 500)
PROBLEMS = {"mnist": mnist, "cifar": cifar}
SEEDS = 5
# What the page calls a recipe and the weights that it is read by.
WAYS = {
    "growth + average": ("adamw+growth", "average"),
    "constant + average": ("adamw", "average"),
    "constant": ("adamw", "raw"),
    "cosine, told": ("adamw+cosine", "raw"),
    "WSD, told": ("adamw+wsd", "raw"),
    "plateau": ("adamw+cooldown", "raw"),
    "schedule-free": ("schedulefree", "raw"),
    "TopoAdamW": ("adamw+compat", "raw"),
    "Prodigy": ("prodigy", "raw"),
    "Prodigy + average": ("prodigy", "average"),
}


def measure(name: str, folder: Path, *, seeds: int = SEEDS) -> Runs:
    """Run the comparison on one problem, or go on with it.

    Args:
        name: "mnist" or "cifar".
        folder: where what is done is kept.
        seeds: how many.

    Returns:
        The runs.
    """
    only = dict.fromkeys(MAIN, GUESSES[name]) | dict.fromkeys(MORE, FEW[name]) | FREE
    return train_recipes(
        PROBLEMS[name](),
        list(only),
        steps=HORIZONS,
        rates=(*GUESSES[name], 1.0),
        seeds=seeds,
        only=only,
        resume=folder / f"{name}.sqlite",
        progress=True,
    )


def plain(name: str, found: Runs) -> dict[str, Any]:
    """All accuracies of a comparison, in per cent.

    Args:
        name: "mnist" or "cifar".
        found: what `measure` gave.

    Returns:
        Plain values: way -> rate -> "valid" or "test" -> a row of horizons for each seed.
    """
    tables = {
        way: {
            f"{rate:g}": {
                part: _percent(found, recipe, rate, weights, part) for part in ("valid", "test")
            }
            for rate in found.rates_of(recipe)
        }
        for way, (recipe, weights) in WAYS.items()
    }
    return {
        "seeds": len(found.seeds),
        "horizons": list(found.horizons),
        "spread": [f"{rate:g}" for rate in SPREAD[name]],
        "accuracies": tables,
    }


def _percent(
    found: Runs, recipe: str, rate: float, weights: str, part: str
) -> list[list[float]]:
    read = [
        found.scores(recipe, rate, f"{part} accuracy", weights=weights, horizon=horizon)[:, 0]
        for horizon in found.horizons
    ]
    return np.round(100 * np.stack(read, axis=1), 2).tolist()
