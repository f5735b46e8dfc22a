"""One training of a recipe: its optimizer, schedule, controller and averages, step by step."""

import importlib
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.cooldown import cooldown_factor
from lossatlas.errors import MissingDependencyError
from lossatlas.objective import Batch, Objective, supervised
from lossatlas.recipes.averages import Averages
from lossatlas.recipes.losses import register_ascent, register_hooks, training_loss
from lossatlas.recipes.recipe import Recipe
from lossatlas.recipes.setup import TrainingSetup
from lossatlas.result import Estimate
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.optimizers import TopoAdamW
from lossatlas.steering.policies import POLICIES
from lossatlas.steering.probe import Closure, sub_batch
from lossatlas.steering.simple_averages import EMA
from lossatlas.steering.updates import CautiousUpdates, InterpolatedGradients
from lossatlas.training import StepInfo

INTERVAL = 25
# Short trainings leave no room for the 150 steps of the original.
PATIENCE = 50


def build_optimizer(
    recipe: Recipe, setup: TrainingSetup, model: nn.Module, weights: list[Tensor], lr: float
) -> torch.optim.Optimizer:
    """The optimizer of a recipe; `model` is what a drop-in probes."""
    decay = recipe.setting("decay", setup.decay)
    if recipe.optimizer == "sgd":
        momentum = 0.0 if recipe.has("interpolated") else 0.9
        return torch.optim.SGD(weights, lr=lr, momentum=momentum, weight_decay=decay)
    if recipe.optimizer in {"adam", "adamw"}:
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        # The interpolation takes the place of the first moment.
        betas = (0.0 if recipe.has("interpolated") else 0.9, 0.999)
        return kind(weights, lr=lr, betas=betas, weight_decay=decay)
    if recipe.optimizer == "topoadamw":
        interval = int(recipe.setting("interval", INTERVAL))
        return TopoAdamW(
            weights, model, lr=lr, weight_decay=decay, interval=interval, warmup_steps=PATIENCE
        )
    try:
        others = importlib.import_module("pytorch_optimizer")
    except ImportError:
        raise MissingDependencyError(
            f"'{recipe.optimizer}' needs pytorch_optimizer; pip install pytorch_optimizer."
        ) from None
    if recipe.optimizer == "prodigy":
        made: torch.optim.Optimizer = others.Prodigy(weights, lr=lr, weight_decay=decay)
    else:
        made = others.ScheduleFreeAdamW(
            weights, lr=lr, weight_decay=decay, warmup_steps=setup.warmup
        )
    return made


class RecipeTraining:
    """Optimizer, schedule, controller and averages of one training.

    Args:
        setup: data and model.
        recipe: how to train.
        model: what is trained.
        steps: updates; what a schedule that needs the horizon is given.
        averages: of the weights.

    Attributes:
        controller: None where the recipe has none.
        spent: CPU seconds of training up to the last pause.
        steering: how many of them the controller took; NaN for a drop-in.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        recipe: Recipe,
        model: nn.Module,
        steps: int,
        averages: Averages,
    ) -> None:
        self.setup, self.recipe, self.model, self.steps = setup, recipe, model, steps
        self.averages = averages
        self.controller: LandscapeLR | None = None
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        self.steering, self.spent, self._began = 0.0, 0.0, time.process_time()
        self._drop_in: LandscapeLR | None = None
        self._last: Batch = ()
        self._loss = training_loss(recipe, model, setup.criterion)
        self._probed = supervised(setup.criterion or F.cross_entropy)

    def start(self, weights: list[Tensor], lr: float) -> torch.optim.Optimizer:
        """Make the optimizer and what goes with it; the clock starts."""
        optimizer = build_optimizer(self.recipe, self.setup, self.model, weights, lr)
        register_hooks(self.recipe, optimizer)
        if self.recipe.has("cautious"):
            # Before the controller, which goes by the updates that are made.
            CautiousUpdates(optimizer)
        self.schedule = self._scheduler(optimizer)
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
        if self.recipe.has("interpolated"):
            gamma = self.recipe.setting("interpolated", 16.0)
            InterpolatedGradients(optimizer, self.averages.bank, gamma=gamma)
            self.averages.updates_itself = True
        register_ascent(self.recipe, optimizer, self.model, self._again)
        self._began = time.process_time()
        return optimizer

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch; a controller that needs it before the update observes it."""
        inputs, targets = batch
        augment = self.setup.augment
        changed = inputs if augment is None else augment(inputs)
        self._last = (changed, targets)
        value = self._loss(model, self._last)
        controller = self.controller
        if controller is not None and controller.policy.before and value.requires_grad:
            controller.observe(value)
        if self._drop_in is not None:
            self._drop_in.closure = self._closure(batch)
        return value

    def after(self, info: StepInfo) -> None:
        """Step controller or schedule, and update the averages of the weights."""
        if self.controller is not None:
            began = time.process_time()
            valid = self._validation(info.step) if self.recipe.has("brake") else None
            self.controller.step(self._closure(info.batch), loss=info.loss, validation=valid)
            self.steering += time.process_time() - began
        elif self.schedule is not None:
            self.schedule.step()
        self.averages.update()

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

    @contextmanager
    def averaged_weights(self, name: str, optimizer: Any) -> Iterator[None]:
        """The weights that are to be measured ("raw" or an average), in the model."""
        own, data = hasattr(optimizer, "eval"), self.setup.train
        if own:
            optimizer.eval()
        try:
            # What an optimizer averages by itself needs its own statistics, too.
            batches = data.take(min(len(data), 1000)).batches(250)
            shown: AbstractContextManager[None] = nullcontext()
            if name != "raw":
                shown = self.averages.swapped(name, batches)
            elif own:
                shown = EMA(self.model, 0.0, batches=batches).swapped()
            with shown:
                yield
        finally:
            if own:
                optimizer.train()

    def _validation(self, step: int) -> Estimate | None:
        if step % INTERVAL:
            return None
        with self.averaged_weights("average", None):
            data = self.setup.valid.take(min(len(self.setup.valid), 500))
            batches = data.batches(500)
            return Objective(self.model, self._probed, batches, check=False).evaluate()

    def _again(self) -> Tensor:
        return self._loss(self.model, self._last)

    def _closure(self, batch: Batch) -> Closure:
        return sub_batch(self.model, self._probed, batch, 32)

    def _scheduler(self, optimizer: Any) -> torch.optim.lr_scheduler.LRScheduler | None:
        schedule, steps = self.recipe.needs_horizon, self.steps
        free = self.recipe.optimizer in {"schedulefree", "prodigy"}
        if self.recipe.controller == "growth" or (free and schedule is None):
            return None
        warmup = int(self.recipe.setting("warmup", self.setup.warmup))

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if schedule == "cosine":
                return cooldown_factor("cosine", (step - warmup) / max(steps - warmup, 1))
            if schedule == "linear":
                return cooldown_factor("linear", (step - warmup) / max(steps - warmup, 1))
            if schedule == "wsd":
                cooled = round(0.2 * steps)
                return cooldown_factor("sqrt", (step - (steps - cooled)) / cooled)
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
