"""Hugging Face: a Trainer whose rate is steered, and whose controller sees the batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossatlas.errors import ArgumentError
from lossatlas.integrations.trackers import Reporter
from lossatlas.objective.batches import split
from lossatlas.steering import DecisionLog, LandscapeLR
from lossatlas.steering.probe import Closure


class SteeringMixin:
    """Put before `Trainer` in a class: the scheduler becomes a `LandscapeLR` around it.

    It decides as a plain loop with the same settings does. Checkpoints hold its state as that
    of the scheduler, and `resume_from_checkpoint` goes on with it. A `LandscapeLR` that is
    given in `optimizers=` is taken as it is.

    Args:
        *args: of the Trainer.
        steering: settings of `LandscapeLR` by name.
        examples: of a batch that a probe reads. Default 24.
        tracker: anything that `as_tracker` takes; gets new decisions.
        **kwargs: of the Trainer.

    Examples:
        class SteeredTrainer(SteeringMixin, Trainer): ...

        trainer = SteeredTrainer(model=model, args=args, steering={"interval": 50})
    """

    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    compute_loss: Any
    compute_loss_context_manager: Any
    _prepare_inputs: Any

    def __init__(
        self,
        *args: Any,
        steering: Mapping[str, Any] | None = None,
        examples: int = 24,
        tracker: Any = None,
        **kwargs: Any,
    ) -> None:
        self.steering, self.examples = dict(steering or {}), examples
        self._reporter = None if tracker is None else Reporter(tracker)
        self._losses: list[Tensor] = []
        super().__init__(*args, **kwargs)

    @property
    def decisions(self) -> DecisionLog:
        """The decisions so far."""
        steered = isinstance(self.lr_scheduler, LandscapeLR)
        return self.lr_scheduler.log if steered else DecisionLog(())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's scheduler with a controller around it.

        Args:
            num_training_steps: as for the Trainer.
            optimizer: as for the Trainer.

        Returns:
            The controller.

        Raises:
            ArgumentError: a scheduler that waits for a metric.
        """
        if isinstance(self.lr_scheduler, LandscapeLR):
            return self.lr_scheduler
        steered = _bare(self.optimizer if optimizer is None else optimizer)
        inner = super().create_scheduler(num_training_steps, steered)  # type: ignore[misc]
        if isinstance(inner, ReduceLROnPlateau):
            raise ArgumentError(
                "`lr_scheduler_type` must not wait for a metric where the rate is steered; "
                "take another, or PlateauCooldown() as the policy."
            )
        self.lr_scheduler = LandscapeLR(steered, scheduler=inner, **self.steering)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A step of the Trainer; the controller is shown its batch and its loss.

        Args:
            model: what is trained.
            inputs: the batch.
            *args: as for the Trainer.
            **kwargs: as for the Trainer.

        Returns:
            The loss.
        """
        controller = self.lr_scheduler
        if self._reporter is not None:
            self._reporter.report(controller)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self._losses.append(loss)
        if self.accelerator.sync_gradients:
            controller.observe(torch.stack(self._losses).sum())
            controller.closure = self._closure(model, inputs)
            self._losses = []
        return loss

    def _closure(self, model: Any, inputs: Any) -> Closure:
        def closure() -> Tensor:
            part = self._prepare_inputs(split(inputs, self.examples)[0])
            with self.compute_loss_context_manager():
                loss: Tensor = self.compute_loss(model, part)
            return loss

        return closure


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    # Accelerate wraps optimizers; hooks belong to what really steps.
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
