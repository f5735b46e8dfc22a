"""One training of a recipe: what a loop calls before, in and after every update."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.cooldown import cooldown_factor
from lossatlas.objective import Batch, supervised
from lossatlas.steering.averaging import WeightAverage
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.optimizers import TopoAdamW
from lossatlas.steering.policies import POLICIES
from lossatlas.steering.probe import Closure, sub_batch
from lossatlas.studies.compare.losses import register_hooks, training_loss
from lossatlas.studies.compare.optimizers import INTERVAL, PATIENCE, build
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import Recipe
from lossatlas.training import StepInfo


class Session:
    """Optimizer, schedule, controller and averages of one training.

    Args:
        problem: data and model.
        recipe: how to train.
        model: what is trained.
        steps: updates; what a schedule that is told the horizon is told.
        averages: of the weights, name -> average.

    Attributes:
        controller: None where the recipe has none.
        spent: CPU seconds of training up to the last pause.
        steering: how many of them the controller took; NaN for a drop-in.
    """

    def __init__(
        self,
        problem: Problem,
        recipe: Recipe,
        model: nn.Module,
        steps: int,
        averages: Mapping[str, WeightAverage],
    ) -> None:
        self.problem, self.recipe, self.model, self.steps = problem, recipe, model, steps
        self.averages = averages
        self.controller: LandscapeLR | None = None
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        self.steering, self.spent, self._began = 0.0, 0.0, time.process_time()
        self._drop_in: LandscapeLR | None = None
        self._loss = training_loss(recipe, model, problem.criterion)
        self._probed = supervised(problem.criterion or F.cross_entropy)

    def start(self, weights: list[Tensor], lr: float) -> torch.optim.Optimizer:
        """Make the optimizer and what goes with it; the clock starts."""
        optimizer = build(self.recipe, self.problem, self.model, weights, lr)
        register_hooks(self.recipe, optimizer)
        self.schedule = self._scheduled(optimizer)
        if isinstance(optimizer, TopoAdamW):
            self._drop_in = optimizer.controller
            # Its controller works inside of the step.
            self.steering = math.nan
        if self.recipe.controller is not None:
            policy = POLICIES[self.recipe.controller]()
            self.controller = LandscapeLR(
                optimizer,
                policy,
                interval=int(self.recipe.setting("interval", INTERVAL)),
                warmup=min(policy.warmup, PATIENCE),
                scheduler=self.schedule,
            )
        self._began = time.process_time()
        return optimizer

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch; a controller that needs it before the update is told."""
        inputs, targets = batch
        augment = self.problem.augment
        changed = inputs if augment is None else augment(inputs)
        value = self._loss(model, (changed, targets))
        controller = self.controller
        if controller is not None and controller.policy.before and value.requires_grad:
            controller.observe(value)
        if self._drop_in is not None:
            self._drop_in.closure = self._closure(batch)
        return value

    def after(self, tick: StepInfo) -> None:
        """Step controller or schedule, and take the weights into the averages."""
        if self.controller is not None:
            began = time.process_time()
            self.controller.step(self._closure(tick.batch), loss=tick.loss)
            self.steering += time.process_time() - began
        elif self.schedule is not None:
            self.schedule.step()
        for average in self.averages.values():
            average.update()

    @property
    def log(self) -> LandscapeLR | None:
        """The controller, also the one inside a drop-in."""
        return self._drop_in if self.controller is None else self.controller

    @property
    def seconds(self) -> float:
        """CPU seconds of training so far."""
        return self.spent + time.process_time() - self._began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside the block is not a part of the training."""
        self.spent = self.seconds
        try:
            yield
        finally:
            self._began = time.process_time()

    def _closure(self, batch: Batch) -> Closure:
        return sub_batch(self.model, self._probed, batch, 32)

    def _scheduled(self, optimizer: Any) -> torch.optim.lr_scheduler.LRScheduler | None:
        told, steps = self.recipe.told, self.steps
        free = self.recipe.optimizer in {"schedulefree", "prodigy"}
        if self.recipe.controller == "climb" or (free and told is None):
            return None
        warmup = int(self.recipe.setting("warmup", self.problem.warmup))

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if told == "cosine":
                return cooldown_factor("cosine", (step - warmup) / max(steps - warmup, 1))
            if told == "wsd":
                cooled = round(0.2 * steps)
                return cooldown_factor("sqrt", (step - (steps - cooled)) / cooled)
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
