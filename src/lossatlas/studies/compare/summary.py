"""What trainings side by side say, one row a recipe: for tables, pages and JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.linalg.estimators import quantile
from lossatlas.studies.compare.statistics import Difference
from lossatlas.studies.compare.trainings import Trainings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One recipe at its best rate. Scores are of the test examples.

    Attributes:
        recipe: its name.
        lr: the rate that the validation examples chose.
        score: mean over the seeds of what is compared (accuracy, or loss).
        stderr: its standard error over the seeds; over the examples where there is one seed.
        loss: mean test loss.
        loss_stderr: likewise.
        difference: of the score to the first recipe, seed by seed; None for the first one and
            where no pair is finite.
        loss_difference: likewise of the test loss.
        untuned: difference of the score averaged over all rates; None for one rate.
        overhead: CPU time over that of the first recipe, (ratio, lower, upper).
        steering: share of its CPU time that the controller took.
        diverged: seeds whose training did not stay finite.
        decisions: of the controller, first seed.
        final_rate: of the last update, mean over the seeds.
    """

    recipe: str
    lr: float
    score: float
    stderr: float
    loss: float
    loss_stderr: float
    difference: Difference | None
    loss_difference: Difference | None
    untuned: Difference | None
    overhead: tuple[float, float, float]
    steering: float
    diverged: int
    decisions: int
    final_rate: float

    @property
    def verdict(self) -> str:
        """What the difference says in words."""
        if self.difference is None:
            return ""
        if self.difference.pairs == 1:
            return "one seed says nothing"
        return self.difference.verdict

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self) | {"overhead": list(self.overhead), "verdict": self.verdict}


def rows(found: Trainings) -> list[Row]:
    """One row a recipe."""
    return [_row(found, recipe) for recipe in found.recipes]


def interval(values: Array) -> tuple[float, float, float]:
    """The mean of some values with its 95 % interval (Student's t)."""
    mean, error = float(values.mean()), _stderr(values)
    reach = quantile(0.95, len(values)) * error if len(values) > 1 else math.nan
    return mean, mean - reach, mean + reach


def _row(found: Trainings, recipe: str) -> Row:
    name, first = f"test {found.measure}", recipe == found.recipes[0]
    score, loss = (found.tuned(recipe, which) for which in (name, "test loss"))
    lr = found.best_rate(recipe)
    runs = [found.training(recipe, lr, seed) for seed in found.seeds]
    finals = [run.rates[-1] for run in runs if run.rates]
    many = len(found.rates) > 1 and not first
    return Row(
        recipe=recipe,
        lr=lr,
        score=float(score.mean()),
        stderr=_error(found, recipe, name, score),
        loss=float(loss.mean()),
        loss_stderr=_error(found, recipe, "test loss", loss),
        difference=None if first else found.difference(recipe, name),
        loss_difference=None if first else found.difference(recipe, "test loss"),
        untuned=found.difference(recipe, name, tuned=False) if many else None,
        overhead=found.overhead(recipe),
        steering=found.steering(recipe),
        diverged=found.diverged(recipe),
        decisions=len(runs[0].decisions),
        final_rate=float(np.mean(finals)) if finals else math.nan,
    )


def _error(found: Trainings, recipe: str, name: str, values: Array) -> float:
    if len(values) > 1:
        return _stderr(values)
    return float(found.errors(recipe, found.best_rate(recipe), name)[0])


def _stderr(values: Array) -> float:
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))
