"""Base classes of callbacks for the Hugging Face Trainer."""

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
    """A callback that receives the training losses logged by a Trainer."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Receive a logged training loss.

        Args:
            args: not used.
            state: of the Trainer.
            control: not used.
            logs: the logged values.
            **kwargs: not used.
        """
        if logs is not None and "loss" in logs:
            self.take_loss(state, float(logs["loss"]))

    def take_loss(self, state: Any, loss: float) -> None:
        """Receive a loss.

        Args:
            state: of the Trainer.
            loss: the mean since the last one.
        """
        raise NotImplementedError


def kept_file(args: Any, state: Any, name: str, what: str, callback: object) -> Path:
    """Path of a callback's file in the checkpoint that a Trainer resumes from."""
    folder = _checkpoint(args, state)
    if isinstance(args.resume_from_checkpoint, str):
        folder = Path(args.resume_from_checkpoint)
    if not (folder / name).is_file():
        raise ArgumentError(
            f"'{folder}' has no {what} to resume from; resume from a checkpoint written with "
            f"{type(callback).__name__}, or train without it."
        )
    return folder / name


def written_folder(args: Any, state: Any) -> Path | None:
    """Folder of the checkpoint just written; None except on the first process."""
    folder = _checkpoint(args, state)
    return folder if state.is_world_process_zero and folder.is_dir() else None


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def bare_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside accelerate wrappers."""
    # Accelerate wraps optimizers; hooks belong to what really steps.
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
