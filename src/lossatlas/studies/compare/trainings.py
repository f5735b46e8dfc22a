"""Trainings side by side: recipes x rates x seeds, with paired differences and cost."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.steering.log import DecisionLog
from lossatlas.studies.compare.recipe import parse_recipe
from lossatlas.studies.compare.statistics import Difference, paired
from lossatlas.studies.compare.training import SCORES, Training

Array = NDArray[np.float64]


@store.kind("trainings")
@dataclass(frozen=True, eq=False)
class Trainings:
    """What the trainings of some recipes gave; the first recipe is what others are held to.

    Attributes:
        recipes: their names, in the order asked for.
        rates: base rates.
        seeds: the same for every recipe.
        steps: updates of each training.
        trainings: all of them; recipes that differ in their reading only share one.
        task: of the data: "classification", "regression" or "language".
        provenance: settings and fingerprints.
    """

    recipes: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    trainings: tuple[Training, ...]
    task: str
    provenance: store.Provenance = field(default_factory=store.Provenance)

    @property
    def measure(self) -> str:
        """What is compared: accuracy where there are classes, otherwise the loss."""
        return "accuracy" if self.task == "classification" else "loss"

    def training(self, recipe: str, lr: float, seed: int) -> Training:
        """One of them.

        Args:
            recipe: its name.
            lr: base rate.
            seed: of the training.

        Returns:
            The training.

        Raises:
            UnknownNameError: an unknown recipe.
        """
        check_one_of("recipe", recipe, self.recipes)
        return self._by_key[parse_recipe(recipe).trained, lr, seed]

    def scores(self, recipe: str, lr: float, name: str) -> Array:
        """One score of a recipe, through the weights that it is read by.

        Args:
            recipe: its name.
            lr: base rate.
            name: one of `SCORES`.

        Returns:
            Shape (seeds,).

        Raises:
            UnknownNameError: an unknown name.
        """
        return np.array([value for value, _ in self._pairs(recipe, lr, name)])

    def errors(self, recipe: str, lr: float, name: str) -> Array:
        """The standard errors of a score over the examples that it was measured on.

        Args:
            recipe: its name.
            lr: base rate.
            name: one of `SCORES`.

        Returns:
            Shape (seeds,); NaN where there is none.
        """
        return np.array([error for _, error in self._pairs(recipe, lr, name)])

    def _pairs(self, recipe: str, lr: float, name: str) -> list[tuple[float, float]]:
        check_one_of("score", name, SCORES)
        weights = "average" if parse_recipe(recipe).averaged else "raw"
        return [self.training(recipe, lr, seed).scores[weights][name] for seed in self.seeds]

    def best_rate(self, recipe: str) -> float:
        """The rate that does best on the validation examples, on average over the seeds.

        Args:
            recipe: its name.

        Returns:
            One of `rates`.
        """
        sign = 1 if self.measure == "accuracy" else -1
        means = [
            sign * float(self.scores(recipe, lr, f"valid {self.measure}").mean())
            for lr in self.rates
        ]
        return self.rates[int(np.argmax(means))]

    def tuned(self, recipe: str, name: str) -> Array:
        """A score at the best rate.

        Args:
            recipe: its name.
            name: one of `SCORES`.

        Returns:
            Shape (seeds,).
        """
        return self.scores(recipe, self.best_rate(recipe), name)

    def untuned(self, recipe: str, name: str) -> Array:
        """A score averaged over all rates, as for somebody who has to guess.

        Args:
            recipe: its name.
            name: one of `SCORES`.

        Returns:
            Shape (seeds,).
        """
        table = np.array([self.scores(recipe, lr, name) for lr in self.rates])
        return np.asarray(table.mean(axis=0))

    def difference(self, recipe: str, name: str, *, tuned: bool = True) -> Difference | None:
        """How much higher a recipe scores than the first one, seed by seed.

        Args:
            recipe: its name.
            name: one of `SCORES`.
            tuned: at the best rate of each; otherwise averaged over all rates.

        Returns:
            The difference over the seeds where both are finite; None where there is none.
        """
        read = self.tuned if tuned else self.untuned
        ours, theirs = read(recipe, name), read(self.recipes[0], name)
        both = np.isfinite(ours) & np.isfinite(theirs)
        return paired(ours[both], theirs[both]) if both.any() else None

    def overhead(self, recipe: str) -> tuple[float, float, float]:
        """CPU time over that of the first recipe, at the best rate of each.

        Args:
            recipe: its name.

        Returns:
            (ratio, lower, upper): the geometric mean over the seeds and its 95 % interval.
        """
        ours, theirs = (
            [
                math.log(max(self.training(r, self.best_rate(r), s).seconds, 1e-9))
                for s in self.seeds
            ]
            for r in (recipe, self.recipes[0])
        )
        found = paired(ours, theirs)
        return math.exp(found.mean), math.exp(found.lower), math.exp(found.upper)

    def steering(self, recipe: str) -> float:
        """The share of a recipe's CPU time that its controller took.

        Args:
            recipe: its name.

        Returns:
            Between 0 and 1, over all its trainings; NaN where it cannot be told apart.
        """
        runs = [self.training(recipe, lr, s) for lr in self.rates for s in self.seeds]
        total = sum(run.seconds for run in runs)
        return sum(run.steering for run in runs) / total if total > 0 else 0.0

    def diverged(self, recipe: str) -> int:
        """How many trainings of a recipe at its best rate did not stay finite.

        Args:
            recipe: its name.

        Returns:
            A number of seeds.
        """
        lr = self.best_rate(recipe)
        return sum(self.training(recipe, lr, s).diverged_at is not None for s in self.seeds)

    def log(self, recipe: str, lr: float | None = None, seed: int = 0) -> DecisionLog:
        """The decisions of a training.

        Args:
            recipe: its name.
            lr: base rate; the best one by default.
            seed: of the training. Default 0.

        Returns:
            The log; empty where there was no controller.
        """
        rate = self.best_rate(recipe) if lr is None else lr
        return DecisionLog(self.training(recipe, rate, seed).decisions, self.provenance)

    @cached_property
    def _by_key(self) -> dict[tuple[str, float, int], Training]:
        return {(run.recipe, run.lr, run.seed): run for run in self.trainings}

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The trainings as labeled arrays.

        Returns:
            group name -> Dataset.
        """
        loss = np.full((len(self.trainings), self.steps), np.nan)
        rate = loss.copy()
        for row, run in enumerate(self.trainings):
            loss[row, : len(run.losses)] = run.losses
            rate[row, : len(run.rates)] = run.rates
        texts = [run.to_array().tobytes().decode("ascii") for run in self.trainings]
        names = np.array([run.recipe for run in self.trainings], dtype=object)
        data = xr.Dataset(
            {
                "loss": (("training", "update"), loss),
                "rate": (("training", "update"), rate),
                "recipe": ("training", names),
                "lr": ("training", np.array([run.lr for run in self.trainings])),
                "seed": ("training", np.array([run.seed for run in self.trainings])),
                "record": ("training", np.array(texts, dtype=object)),
            },
            attrs={
                "recipes": json.dumps(self.recipes),
                "rates": json.dumps(self.rates),
                "seeds": json.dumps(self.seeds),
                "steps": self.steps,
                "task": self.task,
                "provenance": self.provenance.to_json(),
            },
        )
        return {"trainings": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Trainings":
        """The inverse of `to_tree`.

        Args:
            tree: what it gave.

        Returns:
            Equal trainings.
        """
        data = tree["trainings"]
        recipes, rates, seeds = (
            tuple(json.loads(data.attrs[name])) for name in ("recipes", "rates", "seeds")
        )
        rows = (str(text).encode("ascii") for text in data["record"].values)
        runs = tuple(Training.from_array(np.frombuffer(row, dtype=np.float64)) for row in rows)
        made = store.Provenance.from_json(data.attrs["provenance"])
        steps, task = int(data.attrs["steps"]), str(data.attrs["task"])
        return cls(recipes, rates, seeds, steps, runs, task, made)
