"""Recipes: an optimizer, how its rate goes, and what is added to the loss, as one word."""

from dataclasses import dataclass

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.steering.policies import POLICIES

OPTIMIZERS = ("adamw", "adam", "sgd", "topoadamw", "schedulefree", "prodigy")
# Schedules that must be told the horizon, and so need a run for each.
TOLD = ("cosine", "wsd")
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
# What needs no number: how the rate goes when nothing is said, and which weights are read.
PLAIN = ("constant", "average")
PARTS = (*PLAIN, *TOLD, *CONTROLLERS, *PENALTIES, *SETTINGS)


@dataclass(frozen=True)
class Recipe:
    """What one training does.

    Attributes:
        name: as it was written.
        optimizer: one of `OPTIMIZERS`.
        parts: what else, name -> number (NaN where none was written).
    """

    name: str
    optimizer: str
    parts: tuple[tuple[str, float], ...]

    @property
    def told(self) -> str | None:
        """The schedule that is told the horizon, or None."""
        return next((name for name, _ in self.parts if name in TOLD), None)

    @property
    def controller(self) -> str | None:
        """The controller, or None."""
        return next((name for name, _ in self.parts if name in CONTROLLERS), None)

    @property
    def penalties(self) -> dict[str, float]:
        """What is added to the loss, name -> strength."""
        return {name: value for name, value in self.parts if name in PENALTIES}

    @property
    def averaged(self) -> bool:
        """Whether its weights are averaged: on request, or with the growth policy."""
        return self.controller == "climb" or any(name == "average" for name, _ in self.parts)

    @property
    def trained(self) -> str:
        """The recipe without what only concerns the reading: one training serves both."""
        words = self.name.replace(" ", "").split("+")
        return "+".join(word for word in words if word not in PLAIN)

    def setting(self, name: str, default: float) -> float:
        """A number of the recipe.

        Args:
            name: "decay" (weight decay), "warmup" or "interval" (steps).
            default: where it is not written.

        Returns:
            The number.
        """
        return dict(self.parts).get(name, default)


def parse_recipe(text: str) -> Recipe:
    """Read a recipe such as "adamw+cosine", "sgd+sasp=0.01" or "adamw+climb+decay=0.1".

    Args:
        text: an optimizer and parts, joined by "+"; some parts take a number.

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
    optimizer, *written = text.replace(" ", "").split("+")
    check_one_of("optimizer of a recipe", optimizer, OPTIMIZERS)
    parts = tuple(_part(text, word) for word in written)
    for group, what in ((TOLD, "schedules"), (CONTROLLERS, "controllers")):
        if sum(name in group for name, _ in parts) > 1:
            raise ArgumentError(f"'{text}' names several {what}; name one.")
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
    if name not in PENALTIES and name not in SETTINGS:
        raise ArgumentError(
            f"'{name}' in '{text}' takes no number; leave '{sign}{number}' out."
        )
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentError(f"'{word}' in '{text}' must give a number >= 0.")
    return name, value
