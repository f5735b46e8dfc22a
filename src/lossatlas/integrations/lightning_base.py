"""What all callbacks of Lightning are made of."""

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
    """Lightning's class of callbacks.

    Returns:
        The class; `object` where Lightning is not installed: without it there is no trainer to
        pass a callback to, but the class still has its hooks.
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
    """A callback that knows the loss of an update, summed over the batches it accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[Tensor] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Note the loss of a batch, or its share of one that is accumulated.

        Args:
            trainer: not used.
            pl_module: not used.
            loss: divided by the batches of an update.
        """
        self._losses.append(loss.detach())

    def taken_loss(self) -> Tensor | None:
        """The loss of the update, once; None where no batch was seen since.

        Returns:
            A scalar where the module lies.
        """
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if losses else None


def forward_of(module: Any) -> Forward | None:
    """What runs a module that has no `forward` of its own on a batch; None where it has one.

    Args:
        module: a LightningModule.

    Returns:
        A call of one of its steps, its logging muted.

    Raises:
        ArgumentError: it has BatchNorm layers and no step that can be run.
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
            f"{type(module).__name__} has BatchNorm layers, whose statistics are estimated "
            "anew for averaged weights, and no `forward` to run it: write one, or give "
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
    """Let a module log nothing inside of a block."""
    # A probe is no step of the training and must not stand in its logs.
    names = ("log", "log_dict")
    for name in names:
        object.__setattr__(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            object.__delattr__(module, name)
