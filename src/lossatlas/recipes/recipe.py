"""Recipes: an optimizer, its schedule or controller, and penalties, as one line of text."""

import math
from dataclasses import dataclass

from lossatlas.checks import check_one_of, check_text
from lossatlas.errors import ArgumentError
from lossatlas.io.records import record
from lossatlas.recipes.averages import GAMMAS
from lossatlas.steering.policies import POLICIES

OPTIMIZERS = ("adamw", "adam", "sgd", "topoadamw", "schedulefree", "prodigy")
# Schedules that need the number of updates in advance, and so a run for each horizon.
NEED_HORIZON = ("cosine", "wsd", "linear")
CONTROLLERS = tuple(POLICIES)
PENALTIES = (
    "sasp",
    "sasp-fisher",
    "cvp",
    "cvp-original",
    "cwd",
    "l2",
    "smoothing",
    "sam",
    "spectral",
    "sbmp",
    "noise",
)
SETTINGS = ("decay", "warmup", "interval")
# What may have a number: gradients are taken towards the average with that gamma.
OPTIONAL = ("interpolated",)
# What needs no number: how the rate goes when nothing is said, and which weights are read.
PLAIN = ("constant", "average", "bank")
# What changes the updates themselves, see `lossatlas.steering.updates`, or when they fall back.
UPDATES = ("cautious", "interpolated", "brake")
PARTS = (*PLAIN, *NEED_HORIZON, *CONTROLLERS, *UPDATES, *PENALTIES, *SETTINGS)


@record
@dataclass(frozen=True)
class Recipe:
    """How a network is trained; `parse_recipe` makes it.

    Attributes:
        name: as it was written.
        optimizer: one of `OPTIMIZERS`.
        parts: what else, name -> number (NaN where none was written).
    """

    name: str
    optimizer: str
    parts: tuple[tuple[str, float], ...]

    @property
    def needs_horizon(self) -> str | None:
        """The schedule that needs the number of updates in advance, or None."""
        return next((name for name, _ in self.parts if name in NEED_HORIZON), None)

    @property
    def controller(self) -> str | None:
        """The controller, or None."""
        return next((name for name, _ in self.parts if name in CONTROLLERS), None)

    @property
    def penalties(self) -> dict[str, float]:
        """What is added to the loss, name -> strength."""
        return {name: value for name, value in self.parts if name in PENALTIES}

    @property
    def weights(self) -> str:
        """What is read: "bank" or "average" on request, or with what relies on it; or "raw"."""
        names = {name for name, _ in self.parts}
        if "bank" in names:
            return "bank"
        relies = self.controller == "growth" or "interpolated" in names
        return "average" if relies or "average" in names else "raw"

    def has(self, part: str) -> bool:
        """Whether a part is in it.

        Args:
            part: its name.

        Returns:
            True where it was written.
        """
        return any(name == part for name, _ in self.parts)

    @property
    def trained(self) -> str:
        """The recipe without what only changes which weights are read: they share a run."""
        words = self.name.replace(" ", "").split("+")
        return "+".join(word for word in words if word not in PLAIN)

    def setting(self, name: str, default: float) -> float:
        """A number of the recipe.

        Args:
            name: "decay" (weight decay), "warmup" or "interval" (steps), "interpolated" (gamma
                of the average).
            default: where it is not written.

        Returns:
            The number.
        """
        value = dict(self.parts).get(name, default)
        return default if math.isnan(value) else value


def parse_recipe(text: str | Recipe) -> Recipe:
    """Read a recipe such as "adamw+cosine", "sgd+sasp=0.01" or "adamw+growth+decay=0.1".

    Args:
        text: an optimizer and parts, joined by "+"; some parts take a number. A recipe is
            given back as it is.

    Returns:
        The recipe.

    Raises:
        UnknownNameError: an unknown optimizer or part, with the nearest match.
        ArgumentError: something that is no number, a strength below 0 or missing, or two
            parts that exclude each other.

    Examples:
        >>> parse_recipe("adamw+wsd+sasp=0.01").penalties
        {'sasp': 0.01}
    """
    if isinstance(text, Recipe):
        return text
    check_text("recipe", text)
    optimizer, *written = text.replace(" ", "").split("+")
    check_one_of("optimizer of a recipe", optimizer, OPTIMIZERS)
    parts = tuple(_part(text, word) for word in written)
    for group, what in ((NEED_HORIZON, "schedules"), (CONTROLLERS, "controllers")):
        if sum(name in group for name, _ in parts) > 1:
            raise ArgumentError(f"'{text}' names several {what}; name one.")
    if any(name == "brake" for name, _ in parts) and not any(n == "growth" for n, _ in parts):
        raise ArgumentError(f"'{text}': the brake belongs to growth; add it, or leave it out.")
    if optimizer == "topoadamw" and any(name in CONTROLLERS for name, _ in parts):
        raise ArgumentError(f"'{text}': topoadamw has its controller in it; take adamw.")
    return Recipe(text, optimizer, parts)


def _part(text: str, word: str) -> tuple[str, float]:
    name, sign, number = word.partition("=")
    check_one_of("part of a recipe", name, PARTS)
    if not sign:
        if name in PENALTIES or name in SETTINGS:
            raise ArgumentError(f"'{name}' in '{text}' needs a number, as in '{name}=0.01'.")
        return name, float("nan")
    if name not in PENALTIES and name not in SETTINGS and name not in OPTIONAL:
        raise ArgumentError(
            f"'{name}' in '{text}' takes no number; leave '{sign}{number}' out."
        )
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentError(f"'{word}' in '{text}' must give a number >= 0.")
    if name == "interpolated" and value not in GAMMAS.values():
        raise ArgumentError(
            f"'{word}' in '{text}' must give the gamma of an average: "
            f"{', '.join(f'{g:g}' for g in sorted(GAMMAS.values()))}."
        )
    return name, value
