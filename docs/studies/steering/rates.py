"""Which way of steering the rate is worth it: every recipe, rate, seed and horizon."""

from collections.abc import Callable
from pathlib import Path

from problems import cifar, mnist

from lossatlas.studies.compare import Comparison, compare

DECADES = (1e-4, 1e-3, 1e-2, 1e-1)
HALVES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# Prodigy's own rate is 1; nobody else is run there.
RATES = (*HALVES, 1.0)
# The main question is about these, at every rate.
MAIN = ("adamw", "adamw+cosine", "schedulefree")
GUESSES = {"mnist": HALVES, "cifar": (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)}
# One number each: Prodigy's own rate, and a timid one for the policy that leaves it.
FREE = {"prodigy": (1.0,), "adamw+climb": (1e-4,)}
# Beside them, where the main recipes did best on the validation examples of the first seed.
MORE = {
    "adamw+wsd": (3e-3, 1e-2, 3e-2),
    "adamw+compat": (3e-3, 1e-2, 3e-2),
    "adamw+topology": (3e-3, 1e-2, 3e-2),
    "adamw+cooldown": (3e-3, 1e-2, 3e-2),
}
HORIZONS = {"mnist": (125, 250, 500), "cifar": (125, 250, 500)}
PROBLEMS = {"mnist": mnist, "cifar": cifar}
SEEDS = 5


def measure(
    name: str,
    folder: Path,
    progress: Callable[[str], object],
    *,
    more: bool = True,
    seeds: int = SEEDS,
) -> Comparison:
    """Run the comparison on one problem, or go on with it.

    Args:
        name: "mnist" or "cifar".
        folder: where what is done is kept.
        progress: called with a line after every training.
        more: the further recipes, too.
        seeds: how many.

    Returns:
        The comparison.
    """
    only = dict.fromkeys(MAIN, GUESSES[name]) | FREE | (MORE if more else {})
    return compare(
        PROBLEMS[name](),
        list(only),
        horizons=HORIZONS[name],
        rates=RATES,
        seeds=seeds,
        only=only,
        resume=folder / f"{name}.sqlite",
        progress=progress,
    )
