"""Context managers that restore everything a measurement changes."""

import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossatlas.shards import reshard_one


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the global random states of torch (all devices), numpy and Python."""
    cpu, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),  # noqa: NPY002 - the global state is what is kept
        random.getstate(),
    )
    cuda = _cuda_states()
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def preserved_modes(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Restore train/eval modes of every submodule, also if they differ from their parent."""
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    try:
        yield modules
    finally:
        for module, training in modes:
            if module.training is not training:
                module.training = training


@contextmanager
def preserved_attributes(holders: Iterable[object]) -> Iterator[None]:
    """Restore attributes of modules and other objects, such as cached activations."""
    kept = [holder.__dict__ for holder in holders]
    # Which parameters a module holds: `module.weight = ...` goes there.
    kept += [own["_parameters"] for own in kept if isinstance(own.get("_parameters"), dict)]
    before = [(own, own.copy()) for own in kept]
    try:
        yield
    finally:
        for own, attributes in before:
            if len(own) == len(attributes) and all(map(is_, own.values(), attributes.values())):
                continue
            for name in own.keys() - attributes.keys():
                del own[name]
            for name, value in attributes.items():
                if own.get(name, before) is not value:
                    own[name] = value


@contextmanager
def patched(*changes: tuple[nn.Module | ModuleType, str, Any]) -> Iterator[None]:
    """Set instance attributes of modules (of torch or Python) within a block."""
    missing = object()
    before = [(module, name, module.__dict__.get(name, missing)) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            module.__dict__[name] = value
        yield
    finally:
        for module, name, value in reversed(before):
            if value is missing:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = value


TorchRandomState = tuple[Tensor, list[Tensor] | None]


def torch_random_state() -> TorchRandomState:
    """Global random states of torch: of the CPU, and of all GPUs in use."""
    return torch.get_rng_state(), _cuda_states()


def set_torch_random_state(state: TorchRandomState) -> None:
    """The inverse of `torch_random_state`."""
    cpu, cards = state
    torch.set_rng_state(cpu)
    if cards is not None:
        torch.cuda.set_rng_state_all(cards)


def _cuda_states() -> list[torch.Tensor] | None:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return torch.cuda.get_rng_state_all()


class PreservedModules:
    """Saves buffers and train/eval modes of every module when it first runs.

    Args:
        model: model to save immediately; without one, modules are saved when they run.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._modes: dict[int, tuple[nn.Module, bool]] = {}
        self._known = model is not None
        if model is not None:
            self._keep(model)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Save modules that run inside the block, and restore them afterwards."""
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
        """Restore buffers and modes, in their original storage."""
        with torch.no_grad():
            for buffer, kept in self._buffers.values():
                buffer.copy_(kept)
        for module, training in self._modes.values():
            module.training = training

    def reshard(self) -> None:
        """Free the gathered weights of sharded modules."""
        for module, _ in self._modes.values():
            reshard_one(module)

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
