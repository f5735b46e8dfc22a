"""Base classes for optional frameworks."""

import importlib
import warnings
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
