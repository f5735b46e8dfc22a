"""What all callbacks of Lightning are made of."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
