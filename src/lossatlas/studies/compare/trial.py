"""One training of a comparison, read at its horizons."""

import importlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.errors import MissingDependencyError
from lossatlas.guard import preserved_modes
from lossatlas.objective import Batch, supervised
from lossatlas.steering.averaging import EMA, ValleyAverage, WeightAverage
from lossatlas.steering.controller import TopologyLR
from lossatlas.steering.optimizers import TopoAdamW
from lossatlas.steering.policies import (
    ClimbPolicy,
    EdgePolicy,
    MoMoPolicy,
    PlateauCooldown,
    RegimePolicy,
)
from lossatlas.steering.probe import sub_batch
from lossatlas.steering.reading import Policy
from lossatlas.steering.shapes import shape_factor
from lossatlas.studies.compare.losses import hang_on, training_loss
from lossatlas.studies.compare.recipe import Recipe
from lossatlas.workbench import Tick, build_model, train
from lossatlas.workbench.dataset import Dataset

Array = NDArray[np.float64]
READINGS = ("raw", "ema", "valley-4", "valley-16")
# Columns of a trial: horizon, then these for each reading, then CPU seconds and the rate.
MEASURES = ("valid accuracy", "test accuracy", "test loss")
CONTROLLERS: dict[str, Callable[[], Policy]] = {
    "topology": RegimePolicy,
    "compat": lambda: RegimePolicy(compat="0.1.0"),
    "climb": ClimbPolicy,
    "momo": MoMoPolicy,
    "edge": EdgePolicy,
    "cooldown": PlateauCooldown,
}


@dataclass(frozen=True)
class Problem:
    """What is trained on, chosen by and tested on.

    Attributes:
        train: examples.
        valid: examples by which rates are chosen.
        test: examples that are reported.
        model: as for `build_model`, a name or `file.py:factory`.
        batch_size: examples a batch.
        decay: weight decay of the optimizers.
        warmup: steps of linear warm-up, for every recipe but those that climb.
        augment: inputs -> inputs, drawn from the global random state.
    """

    train: Dataset
    valid: Dataset
    test: Dataset
    model: str
    batch_size: int = 64
    decay: float = 5e-4
    warmup: int = 20
    augment: Callable[[Tensor], Tensor] | None = None


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
    run = _Run(problem, recipe, model, tuple(horizons))
    base = training_loss(recipe, model)

    def loss(trained: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        changed = inputs if problem.augment is None else problem.augment(inputs)
        value = base(trained, (changed, targets))
        run.observe(value)
        return value

    train(
        model,
        problem.train,
        loss,
        steps=horizons[-1],
        optimizer=lambda weights: run.start(weights, lr),
        batch_size=problem.batch_size,
        seed=seed,
        callback=run.after,
    )
    return run.table()


class _Run:
    def __init__(
        self, problem: Problem, recipe: Recipe, model: nn.Module, horizons: tuple[int, ...]
    ) -> None:
        self.problem, self.recipe, self.model = problem, recipe, model
        self.horizons = horizons
        self.rows: list[list[float]] = []
        self.averages: dict[str, WeightAverage] = {
            "ema": EMA(model.parameters(), 0.99),
            "valley-4": ValleyAverage(model.parameters(), 4),
            "valley-16": ValleyAverage(model.parameters(), 16),
        }
        self.controller: TopologyLR | None = None
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        self.spent, self._began = 0.0, time.process_time()

    def start(self, weights: list[Tensor], lr: float) -> torch.optim.Optimizer:
        optimizer = _optimizer(self.recipe, self.problem, self.model, weights, lr)
        hang_on(self.recipe, optimizer)
        self.schedule = self._scheduled(optimizer)
        if self.recipe.controller is not None:
            policy = CONTROLLERS[self.recipe.controller]()
            self.controller = TopologyLR(
                optimizer,
                policy,
                interval=25,
                warmup=self._patience(policy),
                scheduler=self.schedule,
            )
        self._began = time.process_time()
        return optimizer

    def observe(self, value: Tensor) -> None:
        controller = self.controller
        if controller is not None and controller.policy.before and value.requires_grad:
            controller.observe(value)

    def after(self, tick: Tick) -> None:
        if self.controller is not None:
            closure = sub_batch(self.model, supervised(F.cross_entropy), tick.batch, 32)
            self.controller.step(closure, loss=tick.loss)
        elif self.schedule is not None:
            self.schedule.step()
        for average in self.averages.values():
            average.update()
        if tick.step in self.horizons:
            self.spent += time.process_time() - self._began
            self.rows.append(self._read(tick))
            self._began = time.process_time()

    def table(self) -> Array:
        width = 1 + len(READINGS) * len(MEASURES) + 2
        chance = 1 / self.problem.train.outputs
        lost = [chance, chance, math.nan] * len(READINGS)
        for horizon in self.horizons[len(self.rows) :]:
            self.rows.append([horizon, *lost, self.spent, math.nan])
        return np.array(self.rows, dtype=np.float64).reshape(len(self.horizons), width)

    def _read(self, tick: Tick) -> list[float]:
        found: list[float] = [tick.step]
        for reading in READINGS:
            average = self.averages.get(reading)
            # What an optimizer averages by itself needs its own statistics, too.
            with _evaluating(tick.optimizer):
                plain = average is None and not hasattr(tick.optimizer, "eval")
                average = average or EMA(self.model.parameters(), 0.0)
                batches = self.problem.train.take(min(len(self.problem.train), 1000)).batches(
                    250
                )
                swap = nullcontext() if plain else average.swapped(self.model, batches)
                with swap:
                    found += self._measured()
        rate = float(tick.optimizer.param_groups[0]["lr"])
        return [*found, self.spent, rate]

    def _measured(self) -> list[float]:
        valid, _ = evaluate(self.model, self.problem.valid)
        right, loss = evaluate(self.model, self.problem.test)
        return [valid, right, loss]

    def _patience(self, policy: Policy) -> int:
        # Short trainings leave no room for the 150 steps of the original.
        return min(policy.warmup, 50)

    def _scheduled(self, optimizer: Any) -> torch.optim.lr_scheduler.LRScheduler | None:
        told, steps = self.recipe.told, self.horizons[-1]
        free = self.recipe.optimizer in {"schedulefree", "prodigy"}
        if self.recipe.controller == "climb" or (free and told is None):
            return None
        warmup = int(self.recipe.setting("warmup", self.problem.warmup))

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if told == "cosine":
                return shape_factor("cosine", (step - warmup) / max(steps - warmup, 1))
            if told == "wsd":
                cooled = round(0.2 * steps)
                return shape_factor("sqrt", (step - (steps - cooled)) / cooled)
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def evaluate(model: nn.Module, data: Dataset) -> tuple[float, float]:
    """Accuracy and mean cross-entropy in eval mode.

    Args:
        model: modes come back.
        data: examples with classes.

    Returns:
        (accuracy, loss); the loss may be infinite or NaN.
    """
    with torch.no_grad(), preserved_modes(model):
        model.eval()
        outputs = torch.cat([model(inputs) for inputs, _ in data.batches(500)])
    right = (outputs.argmax(1) == data.targets).double().mean()
    return float(right), float(F.cross_entropy(outputs.double(), data.targets))


class _evaluating:  # noqa: N801 - used as a function
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer if hasattr(optimizer, "eval") else None

    def __enter__(self) -> None:
        if self.optimizer is not None:
            self.optimizer.eval()

    def __exit__(self, *_: object) -> None:
        if self.optimizer is not None:
            self.optimizer.train()


def _optimizer(
    recipe: Recipe, problem: Problem, model: nn.Module, weights: list[Tensor], lr: float
) -> torch.optim.Optimizer:
    decay = recipe.setting("decay", problem.decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=0.9, weight_decay=decay)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, lr=lr, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=lr, weight_decay=decay)
    if recipe.optimizer == "topoadamw":
        return TopoAdamW(weights, model, lr=lr, weight_decay=decay)
    try:
        others = importlib.import_module("pytorch_optimizer")
    except ImportError:
        raise MissingDependencyError(
            f"'{recipe.optimizer}' needs pytorch_optimizer; pip install pytorch_optimizer."
        ) from None
    made: torch.optim.Optimizer = (
        others.Prodigy(weights, lr=lr, weight_decay=decay)
        if recipe.optimizer == "prodigy"
        else others.ScheduleFreeAdamW(
            weights, lr=lr, weight_decay=decay, warmup_steps=problem.warmup
        )
    )
    return made
