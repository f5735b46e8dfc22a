"""What all callbacks of the Hugging Face Trainer are made of."""

from pathlib import Path
from typing import Any

import torch

from lossatlas.errors import ArgumentError, MissingDependencyError

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingDependencyError(
        "transformers is not installed; install lossatlas[hf] for Hugging Face callbacks."
    ) from error

__all__ = ["LossCallback", "TrainerCallback", "bare_optimizer", "kept_file", "written_folder"]


class LossCallback(TrainerCallback):
    """A callback that takes in the training losses that a Trainer logs."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take in a logged training loss.

        Args:
            args: not used.
            state: of the Trainer.
            control: not used.
            logs: what was logged.
            **kwargs: not used.
        """
        if logs is not None and "loss" in logs:
            self.take_loss(state, float(logs["loss"]))

    def take_loss(self, state: Any, loss: float) -> None:
        """Take a loss in.

        Args:
            state: of the Trainer.
            loss: the mean since the last one.
        """
        raise NotImplementedError


def kept_file(args: Any, state: Any, name: str, what: str, callback: object) -> Path:
    """A file of a callback in the checkpoint that a Trainer goes on from."""
    folder = _checkpoint(args, state)
    if isinstance(args.resume_from_checkpoint, str):
        folder = Path(args.resume_from_checkpoint)
    if not (folder / name).is_file():
        raise ArgumentError(
            f"'{folder}' holds no {what} to go on with; resume from a checkpoint that was "
            f"written with {type(callback).__name__}, or train without it."
        )
    return folder / name


def written_folder(args: Any, state: Any) -> Path | None:
    """The checkpoint that was just written; None on other processes than the first."""
    folder = _checkpoint(args, state)
    return folder if state.is_world_process_zero and folder.is_dir() else None


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def bare_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch within those of accelerate."""
    # Accelerate wraps optimizers; hooks belong to what really steps.
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
