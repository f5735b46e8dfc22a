"""What else a closure runs: the modules whose buffers and modes must come back."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class PreservedModules:
    """Buffers and train/eval of every module that runs, kept when it is first seen.

    Args:
        model: kept at once; without one, modules are found when they run.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._modes: dict[int, tuple[nn.Module, bool]] = {}
        self._known = model is not None
        if model is not None:
            self._keep(model)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep whatever runs inside the block, and put everything back after it."""
        handle = None
        if not self._known:
            handle = nn.modules.module.register_module_forward_pre_hook(self._see)
        try:
            with warnings.catch_warnings():
                # A compiled model says that it calls global hooks twice; twice does no harm.
                warnings.filterwarnings("ignore", message="Using `torch.compile")
                yield
        finally:
            if handle is not None:
                handle.remove()
            self.restore()

    def restore(self) -> None:
        """Put buffers and modes back, in the storage that they had."""
        with torch.no_grad():
            for buffer, kept in self._buffers.values():
                buffer.copy_(kept)
        for module, training in self._modes.values():
            module.training = training

    def _see(self, module: nn.Module, args: Any) -> None:
        if id(module) not in self._modes:
            self._keep(module)

    def _keep(self, module: nn.Module) -> None:
        for part in module.modules():
            if id(part) not in self._modes:
                self._modes[id(part)] = (part, part.training)
        for buffer in module.buffers():
            if id(buffer) not in self._buffers:
                self._buffers[id(buffer)] = (buffer, buffer.detach().clone())
