"""What all callbacks of the Hugging Face Trainer are made of."""

from pathlib import Path
from typing import Any

import torch

from lossatlas.errors import MissingDependencyError

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingDependencyError(
        "transformers is not installed; install lossatlas[hf] for Hugging Face callbacks."
    ) from error

__all__ = ["TrainerCallback", "bare_optimizer", "checkpoint_folder"]


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Where the checkpoint lies that a Trainer goes on from."""
    given = args.resume_from_checkpoint
    folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    return Path(given) if isinstance(given, str) else folder


def bare_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch within those of accelerate."""
    # Accelerate wraps optimizers; hooks belong to what really steps.
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
