"""What a pass over the data changes in a model or a loss, and how it comes back.

Beside its parameters a model may hold buffers (running statistics, memory queues), plain
attributes (a cache, a counter, a list of losses) and frozen parameters that its forward pass
writes into. A point must not see what an earlier one left there, nor must the user.
"""

import copy
import functools
import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossatlas.guard import preserved_attributes
from lossatlas.objective.batches import Batch, map_tensors, tensors

# How deep containers in containers are looked into, and at how many entries in all.
_DEPTH = 3
_ENTRIES = 50_000
# What tensors of batches are called here; no parameter has a space in its name.
_BATCH = "a batch "
_PLAIN = (int, float, complex, bool, str, bytes, type(None))
# What torch keeps in every module.
INTERNAL = frozenset(
    name for name in vars(nn.Module()) if name.startswith("_") or name == "training"
)
_Container = list[Any] | dict[Any, Any] | set[Any] | deque[Any]


def modules_of_loss(loss: object, model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules that a loss holds: itself, its attributes, what its function captures."""
    own = set(map(id, model.modules()))
    modules = {
        id(value): value
        for value in _held(loss)
        if isinstance(value, nn.Module) and id(value) not in own
    }
    return tuple(modules.values())


def _held(loss: object) -> Iterator[object]:
    yield loss
    if isinstance(loss, nn.Module):
        return
    if isinstance(loss, functools.partial):
        yield from (loss.func, *loss.args, *loss.keywords.values())
        return
    yield getattr(loss, "__self__", None)
    yield from getattr(loss, "__dict__", {}).values()
    function = getattr(loss, "__func__", loss)
    if inspect.isfunction(function):
        try:
            names = inspect.getclosurevars(function)
        except (TypeError, ValueError):
            # A cell that is still empty.
            return
        yield from (*names.nonlocals.values(), *names.globals.values())


@dataclass(frozen=True)
class Volatile:
    """What a pass changes.

    Attributes:
        containers: whether lists, dicts or sets in attributes change.
        tensors: tensors outside buffers that are written into, with their names.
        batches: whether tensors of batches are written into.
        matters: whether a point sees what an earlier one left: it must be renewed.
        names: what changes, for messages.
    """

    containers: bool = False
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    batches: bool = False
    matters: bool = False
    names: tuple[str, ...] = ()


class Attributes:
    """The plain attributes of modules and objects, with what the containers in them hold.

    Args:
        roots: name -> module or object.
    """

    def __init__(self, roots: Mapping[str, object]) -> None:
        self._containers: dict[int, tuple[str, _Container, Any]] = {}
        self._bound: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.tensors: dict[str, Tensor] = {}
        self._left = _ENTRIES
        for path, root in roots.items():
            own = root.__dict__
            self._bound.append((path, own, dict(own)))
            for key, value in own.items():
                if key not in INTERNAL:
                    self._walk(f"{path}.{key}".strip("."), value, 0)

    def _walk(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, _PLAIN) or self._left <= 0 or id(value) in self._containers:
            return
        if isinstance(value, Tensor):
            self.tensors[path] = value
            return
        content = _content(value)
        if content is None or depth > _DEPTH:
            return
        kept = list(content) if isinstance(content, deque) else content.copy()
        self._left -= len(kept)
        self._containers[id(value)] = (path, content, kept)
        for item in kept.values() if isinstance(kept, dict) else kept:
            self._walk(path, item, depth + 1)

    def changed(self) -> list[str]:
        """The names of what holds something else now."""
        names = [path for path, held, kept in self._containers.values() if _differ(held, kept)]
        for path, own, before in self._bound:
            rebound = [
                k for k in {**before, **own} if not _same(own.get(k, self), before.get(k, self))
            ]
            names += [f"{path}.{key}".strip(".") for key in rebound if key not in INTERNAL]
        return list(dict.fromkeys(names))

    def contents_changed(self) -> bool:
        """Whether a list, a dict or a set in an attribute holds something else now."""
        return any(_differ(held, kept) for _, held, kept in self._containers.values())

    def restore(self) -> None:
        """Put everything back."""
        for _, held, kept in self._containers.values():
            if _differ(held, kept):
                _refill(held, kept)


def _content(value: Any) -> _Container | None:
    # What can be put back: containers, and the attributes of small objects.
    if isinstance(value, list | dict | set | deque):
        return value
    kind = type(value)
    if isinstance(value, nn.Module | type) or callable(value):
        return None
    if kind.__module__.split(".")[0] in {"torch", "numpy", "builtins", "logging", "_thread"}:
        return None
    own = getattr(value, "__dict__", None)
    return own if isinstance(own, dict) else None


def _same(a: object, b: object) -> bool:
    return a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and a == b)


def _differ(held: _Container, kept: Any) -> bool:
    if len(held) != len(kept):
        return True
    if isinstance(held, dict):
        return any(key not in kept or not _same(held[key], kept[key]) for key in held)
    if isinstance(held, set):
        return bool(held != kept)
    return not all(map(_same, held, kept))


def _refill(held: _Container, kept: Any) -> None:
    held.clear()
    if isinstance(held, list | deque):
        held.extend(kept)
    else:
        held.update(kept)


class WriteGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps copies of watched tensors from just before something is written into them."""

    # Operators that take functions (flex_attention, cond) go on as they are.
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """What torch asks: compiled code runs as it is, and is not looked into."""
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched: dict[int, list[tuple[str, Tensor]]] = {}
        self._saved: dict[str, tuple[Tensor, Tensor]] = {}
        self._batch: list[Tensor] = []
        self.batches = False

    def watch(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Watch further tensors."""
        for name, value in named:
            pointer = _pointer(value)
            if pointer:
                self._watched.setdefault(pointer, []).append((name, value))

    def watch_batch(self, batch: Batch) -> None:
        """Watch the tensors of a batch instead of those of the one before, which come back."""
        self._settle()
        self._batch = [
            value for value in tensors(batch) if _pointer(value) not in self._watched
        ]
        self.watch((f"{_BATCH}{index}", value) for index, value in enumerate(self._batch))

    def _settle(self) -> None:
        # No longer watched before anything is written back: that would be seen too.
        for value in self._batch:
            self._watched.pop(_pointer(value), None)
        self._batch = []
        for name in [name for name in self._saved if name.startswith(_BATCH)]:
            _write(*self._saved.pop(name))
            self.batches = True

    def restore(self) -> dict[str, Tensor]:
        """Write back what the watched tensors held."""
        self._settle()
        written, self._saved = self._saved, {}
        for tensor, value in written.values():
            _write(tensor, value)
        return {name: tensor for name, (tensor, _) in written.items()}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for value in _written(func, args, kwargs or {}):
            for name, tensor in self._watched.get(_pointer(value), ()):
                if name not in self._saved:
                    self._saved[name] = (tensor, tensor.detach().clone())
        return func(*args, **(kwargs or {}))


@functools.cache
def _targets(func: Any) -> tuple[tuple[int, str], ...]:
    schema = getattr(func, "_schema", None)
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(schema.arguments if schema else ())
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for place, name in _targets(func):
        value = args[place] if place < len(args) else kwargs.get(name)
        yield from tensors(value)


def _pointer(value: Tensor) -> int:
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError, AttributeError):
        # Tensors without storage of their own (sparse, wrapped).
        return 0


@contextmanager
def preserved_state(holders: list[object], volatile: Volatile) -> Iterator[None]:
    """Keep attributes, and of the rest what is known to change."""
    with ExitStack() as stack:
        stack.enter_context(preserved_attributes(holders))
        if volatile.containers:
            kept = Attributes({str(place): holder for place, holder in enumerate(holders)})
            stack.callback(kept.restore)
        for tensor in volatile.tensors.values():
            stack.callback(_write, tensor, tensor.detach().clone())
        yield


def _write(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        tensor.data.copy_(value)


def shallow_copy(batch: Batch) -> Batch:
    """A batch of the same tensors in containers of its own, which a loss may change."""
    if isinstance(batch, Tensor) or (
        type(batch) is tuple and all(isinstance(part, Tensor) for part in batch)
    ):
        return batch
    copied = map_tensors(lambda value: value, batch)
    if copied is not batch or not hasattr(batch, "__dict__"):
        return copied
    # TensorDict, PyG's Data and their kind have a shallow copy of their own.
    copier = getattr(batch, "copy", None) or functools.partial(copy.copy, batch)
    try:
        return copier()
    except (TypeError, AttributeError, RuntimeError):
        return batch
