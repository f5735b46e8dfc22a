"""Which way of steering the rate is worth it: every recipe, rate, seed and horizon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from problems import cifar, mnist

from lossatlas.studies.compare import Comparison, compare

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
FREE = {"prodigy": (1.0,), "adamw+climb": (1e-4, 1e-1)}
HORIZONS = (125, 250, 500)
PROBLEMS = {"mnist": mnist, "cifar": cifar}
SEEDS = 5
# What the page calls a recipe and the weights that it is read by.
WAYS = {
    "climb + valley": ("adamw+climb", "valley-16"),
    "constant + valley": ("adamw", "valley-16"),
    "constant": ("adamw", "raw"),
    "cosine, told": ("adamw+cosine", "raw"),
    "WSD, told": ("adamw+wsd", "raw"),
    "plateau": ("adamw+cooldown", "raw"),
    "schedule-free": ("schedulefree", "raw"),
    "TopoAdamW": ("adamw+compat", "raw"),
    "Prodigy": ("prodigy", "raw"),
    "Prodigy + valley": ("prodigy", "valley-16"),
}


def measure(
    name: str, folder: Path, progress: Callable[[str], object], *, seeds: int = SEEDS
) -> Comparison:
    """Run the comparison on one problem, or go on with it.

    Args:
        name: "mnist" or "cifar".
        folder: where what is done is kept.
        progress: called with a line after every training.
        seeds: how many.

    Returns:
        The comparison.
    """
    only = dict.fromkeys(MAIN, GUESSES[name]) | dict.fromkeys(MORE, FEW[name]) | FREE
    return compare(
        PROBLEMS[name](),
        list(only),
        horizons=HORIZONS,
        rates=(*GUESSES[name], 1.0),
        seeds=seeds,
        only=only,
        resume=folder / f"{name}.sqlite",
        progress=progress,
    )


def plain(name: str, found: Comparison) -> dict[str, Any]:
    """All accuracies of a comparison, in per cent.

    Args:
        name: "mnist" or "cifar".
        found: what `measure` gave.

    Returns:
        Plain values: way -> rate -> "valid" or "test" -> a row of horizons for each seed.
    """
    tables: dict[str, Any] = {}
    for way, (recipe, reading) in WAYS.items():
        valid, test = (found.of(recipe, reading, f"{p} accuracy") for p in ("valid", "test"))
        tables[way] = {
            f"{rate:g}": {"valid": _percent(valid[at]), "test": _percent(test[at])}
            for at, rate in enumerate(found.rates)
            if np.isfinite(valid[at]).all()
        }
    return {
        "seeds": len(found.seeds),
        "horizons": list(found.horizons),
        "spread": [f"{rate:g}" for rate in SPREAD[name]],
        "accuracies": tables,
    }


def _percent(table: np.ndarray) -> list[list[float]]:
    return np.round(100 * table, 2).tolist()
