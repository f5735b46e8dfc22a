"""What all callbacks of Lightning are made of."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


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
