"""One training of a recipe, read at several horizons and through several averages."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from lossatlas.guard import preserved_modes
from lossatlas.steering.averaging import EMA, PolynomialAverage, WeightAverage
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import Recipe
from lossatlas.studies.compare.session import Session
from lossatlas.training import StepInfo, build_model, train
from lossatlas.training.dataset import Dataset

Array = NDArray[np.float64]
READINGS = ("raw", "ema", "valley-4", "valley-16")
# Columns of a trial: horizon, then these for each reading, then CPU seconds and the rate.
MEASURES = ("valid accuracy", "test accuracy", "test loss")


def run_trial(
    problem: Problem, recipe: Recipe, lr: float, seed: int, horizons: Sequence[int]
) -> Array:
    """Train once and read the weights and their averages at some steps.

    Args:
        problem: data and model.
        recipe: how to train; a schedule that is told the horizon is told the last one.
        lr: base rate.
        seed: of weights, order and dropout.
        horizons: numbers of steps, growing.

    Returns:
        A row a horizon: step, `MEASURES` of each of `READINGS`, CPU seconds of training so
        far, rate. Accuracies of a run that diverged are those of chance.
    """
    torch.set_num_threads(1)
    model = build_model(problem.model, problem.train, seed=seed)
    averages: dict[str, WeightAverage] = {
        "ema": EMA(model.parameters(), 0.99),
        "valley-4": PolynomialAverage(model.parameters(), 4),
        "valley-16": PolynomialAverage(model.parameters(), 16),
    }
    session = Session(problem, recipe, model, horizons[-1], averages)
    reader = _Reader(session, tuple(horizons))
    train(
        model,
        problem.train,
        session.loss,
        steps=horizons[-1],
        optimizer=lambda weights: session.start(weights, lr),
        batch_size=problem.batch_size,
        seed=seed,
        callback=reader.after,
    )
    return reader.table()


class _Reader:
    def __init__(self, session: Session, horizons: tuple[int, ...]) -> None:
        self.session, self.horizons = session, horizons
        self.rows: list[list[float]] = []

    def after(self, tick: StepInfo) -> None:
        self.session.after(tick)
        if tick.step in self.horizons:
            with self.session.paused():
                self.rows.append(self._read(tick))

    def table(self) -> Array:
        width = 1 + len(READINGS) * len(MEASURES) + 2
        chance = 1 / self.session.problem.train.outputs
        lost = [chance, chance, math.nan] * len(READINGS)
        for horizon in self.horizons[len(self.rows) :]:
            self.rows.append([horizon, *lost, self.session.spent, math.nan])
        return np.array(self.rows, dtype=np.float64).reshape(len(self.horizons), width)

    def _read(self, tick: StepInfo) -> list[float]:
        session, found = self.session, [float(tick.step)]
        for reading in READINGS:
            with averaged_weights(session, session.averages.get(reading), tick.optimizer):
                found += self._measured()
        rate = float(tick.optimizer.param_groups[0]["lr"])
        return [*found, session.spent, rate]

    def _measured(self) -> list[float]:
        model, problem = self.session.model, self.session.problem
        valid, _ = evaluate(model, problem.valid)
        right, loss = evaluate(model, problem.test)
        return [valid, right, loss]


@contextmanager
def averaged_weights(
    session: Session, average: WeightAverage | None, optimizer: Any
) -> Iterator[None]:
    """The weights that are to be measured, in the model inside the block."""
    data, own = session.problem.train, hasattr(optimizer, "eval")
    if own:
        optimizer.eval()
    try:
        # What an optimizer averages by itself needs its own statistics, too.
        plain = average is None and not own
        shown = average or EMA(session.model.parameters(), 0.0)
        batches = data.take(min(len(data), 1000)).batches(250)
        with nullcontext() if plain else shown.swapped(session.model, batches):
            yield
    finally:
        if own:
            optimizer.train()


def evaluate(model: nn.Module, data: Dataset) -> tuple[float, float]:
    """Accuracy and mean cross-entropy in eval mode."""
    with torch.no_grad(), preserved_modes(model):
        model.eval()
        outputs = torch.cat([model(inputs) for inputs, _ in data.batches(500)])
    right = (outputs.argmax(1) == data.targets).double().mean()
    return float(right), float(F.cross_entropy(outputs.double(), data.targets))
