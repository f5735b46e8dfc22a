"""Recurrent layers: does a model have some, and how to run them without fused kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def has_recurrent_layers(model: nn.Module) -> bool:
    """Whether a model has recurrent layers of torch, which may run as one fused operation."""
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


@contextmanager
def unfused_recurrent_layers(model: nn.Module) -> Iterator[None]:
    """Run recurrent layers step by step: cuDNN's are one operation, differentiable once."""
    if not has_recurrent_layers(model):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield
