"""One run of a recipe and all that it leaves: scores, losses, rates, decisions, cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.io.records import equal, record
from lossatlas.objective import Batch, Objective, supervised
from lossatlas.recipes.averages import Averages, named
from lossatlas.recipes.recipe import Recipe, parse_recipe
from lossatlas.recipes.setup import TrainingSetup
from lossatlas.recipes.training import RecipeTraining
from lossatlas.steering.log import DecisionRecord
from lossatlas.training import StepInfo, build_model, train
from lossatlas.training.criteria import CRITERIA
from lossatlas.training.dataset import Dataset
from lossatlas.training.devices import chosen_device

Array = NDArray[np.float64]
Weights = dict[str, Tensor]
SCORES = ("valid loss", "valid accuracy", "test loss", "test accuracy")


@record
@dataclass(frozen=True, eq=False)
class Run:
    """What one run of a recipe gave.

    Attributes:
        recipe: its name, without what only changes the weights that are read.
        lr: base rate.
        seed: of weights, order and dropout.
        horizons: updates at which it was read, growing.
        weights: what was read: "raw" and names of `AVERAGES`.
        scores: float64, shape (horizons, weights, `SCORES`, 2): value and standard error over
            the examples; NaN where there is none. A run that diverged has the accuracy of
            chance and an infinite loss.
        losses: of each batch before its update, shape (updates,).
        rates: of the first group at each update, shape (updates,).
        seconds: CPU seconds of training up to each horizon, measuring left out.
        steering: how many of all CPU seconds the controller took; NaN for a drop-in.
        diverged_at: the update at which loss or weights were no longer finite, or None.
        decisions: of the controller.
    """

    recipe: str
    lr: float
    seed: int
    horizons: tuple[int, ...]
    weights: tuple[str, ...]
    scores: Array
    losses: Array
    rates: Array
    seconds: Array
    steering: float
    diverged_at: int | None
    decisions: tuple[DecisionRecord, ...]

    def score(self, weights: str, name: str, horizon: int | None = None) -> tuple[float, float]:
        """One score with its standard error over the examples.

        Args:
            weights: which weights: "raw" or a name of `AVERAGES` that was read.
            name: one of `SCORES`.
            horizon: updates; the last one by default.

        Returns:
            (value, standard error).

        Raises:
            UnknownNameError: an unknown name.
            ArgumentError: a horizon that was not read.
        """
        check_one_of("weights", weights, self.weights)
        check_one_of("score", name, SCORES)
        at = len(self.horizons) - 1 if horizon is None else self.place(horizon)
        value, error = self.scores[at, self.weights.index(weights), SCORES.index(name)]
        return float(value), float(error)

    def place(self, horizon: int) -> int:
        """The index of a horizon.

        Args:
            horizon: updates.

        Returns:
            An index into `horizons`.

        Raises:
            ArgumentError: a horizon that was not read.
        """
        if horizon not in self.horizons:
            raise ArgumentError(
                f"`horizon` must be one of {list(self.horizons)}; got {horizon!r}."
            )
        return self.horizons.index(horizon)

    def __eq__(self, other: object) -> bool:
        """Equal to the last bit; NaN equals NaN."""
        return equal(self, other) if isinstance(other, Run) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def run_recipe(
    setup: TrainingSetup,
    recipe: str | Recipe,
    lr: float,
    seed: int,
    horizons: int | Sequence[int],
    *,
    averages: Sequence[str] = (),
    device: str = "cpu",
    keep: dict[str, Weights] | None = None,
) -> Run:
    """Train once, and measure the weights and their averages at some numbers of updates.

    Args:
        setup: data and model.
        recipe: as for `parse_recipe`; a schedule that needs the horizon is given the last one.
        lr: base rate.
        seed: of weights, order and dropout.
        horizons: numbers of updates, growing; one number is the end of the training.
        averages: names of `AVERAGES` to read beside "raw" and "average".
        device: where.
        keep: filled with the state of the model at the end, by weights.

    Returns:
        The run.

    Raises:
        ArgumentError: numbers out of range, or a device that is not there.
        UnknownNameError: an unknown recipe or average.
        MissingDependencyError: an optimizer of another package, which is not installed.

    Examples:
        >>> from lossatlas.training import load_dataset
        >>> data = load_dataset("digits", examples=90)
        >>> rest = data.skip(50)
        >>> setup = TrainingSetup(data.take(50), rest.take(20), rest.skip(20), "mlp(4)")
        >>> run_recipe(setup, "sgd", 0.1, seed=0, horizons=[1, 2]).scores.shape
        (2, 2, 4, 2)
    """
    check_positive("lr", lr)
    steps = check_horizons(horizons)
    parsed = parse_recipe(recipe)
    torch.set_num_threads(1)
    model = build_model(setup.model, setup.train, seed=seed).to(chosen_device(device))
    names = [*averages, *(["bank"] if parsed.weights == "bank" else [])]
    if parsed.has("interpolated"):
        names.append(named(parsed.setting("interpolated", 16.0)))
    weight_averages = Averages(model, names, wide=parsed.has("interpolated"))
    training = RecipeTraining(setup, parsed, model, steps[-1], weight_averages)
    reader = _Reader(training, steps, keep)
    run = train(
        model,
        setup.train,
        training.loss,
        steps=steps[-1],
        optimizer=lambda weights: training.start(weights, lr),
        batch_size=setup.batch_size,
        seed=seed,
        callback=reader.after,
    )
    return Run(
        recipe=parsed.trained,
        lr=lr,
        seed=seed,
        horizons=steps,
        weights=reader.weights,
        losses=run.losses,
        rates=run.rates,
        steering=training.steering,
        diverged_at=run.diverged_at,
        decisions=() if training.log is None else tuple(training.log.log),
        **reader.tables(run.diverged_at),
    )


def check_horizons(horizons: int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of updates, growing, as a tuple."""
    steps = (horizons,) if isinstance(horizons, int) else tuple(horizons)
    for step in steps:
        check_at_least("horizons", step, 1)
    if not steps or any(b <= a for a, b in pairwise(steps)):
        raise ArgumentError(f"`horizons` must be growing numbers of updates; got {steps}.")
    return steps


class _Reader:
    """Measures a training at its horizons."""

    def __init__(
        self,
        training: RecipeTraining,
        horizons: tuple[int, ...],
        keep: dict[str, Weights] | None,
    ) -> None:
        self._training, self._horizons, self._keep = training, horizons, keep
        self.weights = ("raw", *training.averages.names)
        self._scores: dict[int, list[Any]] = {}
        self._seconds: dict[int, float] = {}

    def after(self, info: StepInfo) -> None:
        self._training.after(info)
        if info.step in self._horizons:
            with self._training.paused():
                self._scores[info.step] = self._read(info)
            self._seconds[info.step] = self._training.spent

    def tables(self, diverged_at: int | None) -> dict[str, Array]:
        """Scores and seconds of all horizons; those after a divergence are lost."""
        lost, ended = [_lost(self._training.setup)] * len(self.weights), self._training.seconds
        alive = [
            step in self._scores and (diverged_at is None or diverged_at > step)
            for step in self._horizons
        ]
        pairs = list(zip(self._horizons, alive, strict=True))
        return {
            "scores": np.array([self._scores[h] if there else lost for h, there in pairs]),
            "seconds": np.array([self._seconds.get(h, ended) for h, _ in pairs]),
        }

    def _read(self, info: StepInfo) -> list[Any]:
        setup, model = self._training.setup, self._training.model
        readings: list[Any] = []
        for name in self.weights:
            if name == "bank":
                readings.append(self._best(readings))
                continue
            with self._training.averaged_weights(name, info.optimizer):
                parts = [measure(model, data, setup) for data in (setup.valid, setup.test)]
                if self._keep is not None and info.step == self._horizons[-1]:
                    state = model.state_dict()
                    self._keep[name] = {n: v.detach().clone() for n, v in state.items()}
            readings.append([part[what] for part in parts for what in ("loss", "accuracy")])
        return readings

    def _best(self, readings: list[Any]) -> Any:
        # The member of the bank that does best on the validation examples.
        by_loss = self._training.setup.train.task != "classification"
        ranks = {
            name: -readings[self.weights.index(name)][0][0]
            if by_loss
            else readings[self.weights.index(name)][1][0]
            for name in self._training.averages.banked
        }
        best = max(ranks, key=lambda name: ranks[name])
        if self._keep and best in self._keep:
            self._keep["bank"] = self._keep[best]
        return readings[self.weights.index(best)]


def measure(
    model: nn.Module, data: Dataset, setup: TrainingSetup
) -> dict[str, tuple[float, float]]:
    """Loss and accuracy in eval mode, with their standard errors over the examples."""
    criterion = setup.criterion or F.cross_entropy
    objective = Objective(model, supervised(criterion), data.batches(500), check=False)
    metrics = {} if data.task == "regression" else {"accuracy": _accuracy}
    measures = {"accuracy": (math.nan, math.nan)}
    for name, estimate in objective.evaluate_all(metrics).items():
        measures[name] = (estimate.value, estimate.stderr)
    return measures


def _accuracy(model: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return 1 - CRITERIA["error"](model(inputs), targets)


def _lost(setup: TrainingSetup) -> list[tuple[float, float]]:
    chance = math.nan if setup.train.task == "regression" else 1 / setup.train.outputs
    return [(math.inf, math.nan), (chance, math.nan)] * 2
