"""Which way of steering the rate is worth it: every recipe, rate, seed and horizon."""

from collections.abc import Callable
from pathlib import Path

from problems import cifar, mnist

from lossatlas.studies.compare import Comparison, compare

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
# Prodigy's own rate is 1; nobody else is run there.
GUESSES = {"mnist": RATES[:-1], "cifar": (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}
RECIPES = (
    "adamw",
    "adamw+cosine",
    "adamw+wsd",
    "schedulefree",
    "prodigy",
    "adamw+compat",
    "adamw+topology",
    "adamw+momo",
    "adamw+cooldown",
    "adamw+climb",
)
HORIZONS = {"mnist": (125, 250, 500), "cifar": (125, 250, 500)}
PROBLEMS = {"mnist": mnist, "cifar": cifar}


def measure(
    name: str, folder: Path, progress: Callable[[str], object], *, quick: bool = False
) -> Comparison:
    """Run the comparison on one problem, or go on with it.

    Args:
        name: "mnist" or "cifar".
        folder: where what is done is kept.
        progress: called with a line after every training.
        quick: few rates and seeds, to try it out.

    Returns:
        The comparison.
    """
    problem = PROBLEMS[name](*((300, 100, 100) if quick else ()))
    guesses = GUESSES[name][2::2] if quick else GUESSES[name]
    only = dict.fromkeys(RECIPES, guesses)
    # The base rate drops out of these; two wrong guesses show it.
    only |= {"prodigy": (1.0,), "adamw+climb": (1e-4, 1e-1)}
    return compare(
        problem,
        RECIPES,
        horizons=(10, 20) if quick else HORIZONS[name],
        rates=RATES,
        seeds=2 if quick else 5,
        only=only,
        resume=folder / f"{name}{'-quick' if quick else ''}.sqlite",
        progress=progress,
    )
