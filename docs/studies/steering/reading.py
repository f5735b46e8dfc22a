"""What the pages read from results.json: choices by validation, paired differences."""

from typing import Any

import numpy as np

from lossatlas.recipes import paired
from lossatlas.result import Estimate

# It has one rate, whatever it is given: nothing to choose.
FREE = "growth + average"
Study = dict[str, Any]


def rate(study: Study, way: str, at: int) -> str:
    """The rate with the best mean accuracy on the validation examples at a horizon."""
    table = study["accuracies"][way]
    if way == FREE:
        return next(iter(table))
    return max(table, key=lambda r: np.array(table[r]["valid"])[:, at].mean())


def tuned(study: Study, way: str, at: int) -> np.ndarray:
    """Test accuracy of every seed at that rate."""
    chosen = study["accuracies"][way][rate(study, way, at)]["test"]
    return np.array(chosen)[:, at]


def guessed(study: Study, way: str, at: int) -> np.ndarray:
    """Test accuracy of every seed, averaged over the base rates that a user may guess."""
    table = study["accuracies"][way]
    rates = [r for r in study["spread"] if r in table] or list(table)
    return np.mean([np.array(table[r]["test"])[:, at] for r in rates], axis=0)


def points(found: Estimate) -> str:
    """A difference with its interval."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(found.value, *found.interval())


def ahead(study: Study, first: str, second: str, at: int, *, guess: bool = False) -> Estimate:
    """How much better one way does than another, seed by seed."""
    read = guessed if guess else tuned
    return paired(read(study, first, at), read(study, second, at))
