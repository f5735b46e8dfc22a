"""Base classes of Lightning callbacks."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lossatlas.errors import ArgumentError
from lossatlas.steering.statistics import Forward, tracking_layers


def lightning_callback() -> Any:
    """The callback base class of Lightning.

    Returns:
        The class; `object` if Lightning is not installed, so that the callbacks can still be
        defined.
    """
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            # What Lightning warns of while it is imported is not about its user.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module(name).Callback
        except ImportError:
            continue
    return object


class LossCallback(lightning_callback()):  # type: ignore[misc]
    """A callback that tracks the loss of an update, summed over accumulated batches."""

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[Tensor] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Record the loss of a batch, or its share of an accumulated update.

        Args:
            trainer: not used.
            pl_module: not used.
            loss: loss divided by the number of batches per update.
        """
        self._losses.append(loss.detach())

    def taken_loss(self) -> Tensor | None:
        """Return the loss of the update once; None if there was no batch since.

        Returns:
            A scalar on the device of the module.
        """
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if losses else None


def forward_of(module: Any) -> Forward | None:
    """Function that runs a module without `forward` on a batch; None if it has `forward`.

    Args:
        module: a LightningModule.

    Returns:
        A call of one of its steps with muted logging.

    Raises:
        ArgumentError: the module has BatchNorm layers and no step that can be run.
    """
    if not _is_of_lightning(type(module).forward) or not tracking_layers(module):
        return None
    names = ["validation_step"]
    if getattr(module, "automatic_optimization", True):
        # By hand the training step would step the optimizers.
        names.insert(0, "training_step")
    name = next((n for n in names if not _is_of_lightning(getattr(type(module), n))), None)
    if name is None:
        raise ArgumentError(
            f"{type(module).__name__} has BatchNorm layers, whose statistics are re-estimated "
            "for averaged weights, and no `forward` to run it: write one, or pass "
            "AverageCallback(forward=lambda module, batch: ...)."
        )

    def forward(model: Any, batch: Any) -> Any:
        with muted(model):
            return getattr(model, name)(batch, 0)

    return forward


def _is_of_lightning(method: Any) -> bool:
    return method.__module__.partition(".")[0] in {"lightning", "pytorch_lightning"}


@contextmanager
def muted(module: Any) -> Iterator[None]:
    """Mute the logging of a module inside a block."""
    # A probe is no step of the training and must not stand in its logs.
    names = ("log", "log_dict")
    for name in names:
        object.__setattr__(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            object.__delattr__(module, name)
