"""Cache modules that do not change along a plane: they run once per batch.

If only some weights move (the last layers, adapters), everything before the first of them has
the same output at every point. No order of layers is assumed: a module none of whose parameters
moves, and whose outputs were equal for equal inputs at two points, returns its cached output as
long as its inputs are the same objects or bitwise equal.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.guard import patched
from lossatlas.landscape.directions import RandomDirection
from lossatlas.landscape.plane import Plane
from lossatlas.memory import free_memory
from lossatlas.objective import Objective
from lossatlas.objective.in_place import is_collective

_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.Size)
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# No module of a model has a space in its name.
_LOSS = "loss "
# What is kept of batches may take this share of the memory that is free.
_SHARE = 4
# Entries of a tensor that tell whether it is worth remembering.
_SAMPLE = 64
_Answer = Callable[..., Any]


@dataclass
class Unmoved:
    """Modules whose output is the same at every point of a plane.

    Attributes:
        names: of the outermost ones.
        bytes: what they are given and give out, of one batch.
    """

    names: tuple[str, ...] = ()
    bytes: int = 0

    def take(self, unmoved: "Unmoved") -> None:
        """Become what was found: the engines of a task share one."""
        self.names, self.bytes = unmoved.names, unmoved.bytes


def unmoved_modules(objective: Objective, plane: Plane) -> dict[str, nn.Module]:
    """The modules that may be left out of a pass, as far as can be seen without one."""
    if not _may_leave_out(objective, plane):
        return {}
    moving = {n for n in plane.origin if any(_moves(d, n) for d in plane.directions)}
    own = dict(objective.model.named_parameters())
    reached = {id(own[name]) for name in moving}
    return {
        name: module
        for name, module in _named_modules(objective)
        if module is not objective.model and _is_plain(module, reached)
        if not any(_is_within(changed, name) for changed in objective.volatile.names)
    }


def _is_within(changed: str, name: str) -> bool:
    # What changes in a loss is not attributed to its modules.
    return changed.startswith("loss" if name.startswith(_LOSS) else f"{name}.")


def _may_leave_out(objective: Objective, plane: Plane) -> bool:
    # Statistics that are estimated at every point, or go with it, reach everything.
    if objective.mode == "recalibrated" or plane.buffers is not None:
        return False
    # Compiled code has its own ways, and processes that wait for each other go on together.
    compiled = any(
        getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod")
        for m in objective.model.modules()
    )
    known = objective.placed is None and not is_collective(objective.model)
    return known and not compiled and not objective.volatile.matters


def _moves(direction: Any, name: str) -> bool:
    if isinstance(direction, RandomDirection):
        return direction.moves(name)
    return bool(direction[name].any())


def _named_modules(objective: Objective) -> Iterator[tuple[str, nn.Module]]:
    yield from objective.model.named_modules()
    # A teacher, a network that a perceptual loss is made of.
    for place, module in enumerate(objective.loss_modules):
        yield from module.named_modules(prefix=f"{_LOSS}{place}")


def _is_plain(module: nn.Module, reached: set[int]) -> bool:
    if any(id(value) in reached for value in module.parameters()):
        return False
    for inner in module.modules():
        # Hooks of modules inside would not be run.
        hooked = inner is not module and (inner._forward_hooks or inner._forward_pre_hooks)
        if inner.training or hooked or isinstance(inner, torch.jit.ScriptModule):
            return False
    return True


class Watch:
    """Finds the modules whose output is the same at two points.

    Args:
        modules: those that may, by name.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules
        self._seen: list[dict[str, list[object]]] = []
        self._sizes: dict[str, int] = {}
        self._unfit: set[str] = set()

    @contextmanager
    def point(self) -> Iterator[None]:
        """Watch the passes of another point over the same batch."""
        self._seen.append({name: [] for name in self._modules})
        changes = [(m, "forward", self._watched(n, m)) for n, m in self._modules.items()]
        with patched(*changes):
            yield

    def _watched(self, name: str, module: nn.Module) -> _Answer:
        forward = module.forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            drawn = _random_states()
            inputs, answers = _flat((args, kwargs), objects=True), None
            told = None if inputs is None else _digest(inputs)
            output = forward(*args, **kwargs)
            if told is not None and all(map(torch.equal, drawn, _random_states())):
                answers = _flat(output)
            if answers is None or torch.is_grad_enabled():
                self._unfit.add(name)
            else:
                self._seen[-1][name].append((told, _digest(answers)))
                self._sizes[name] = _bytes([*(inputs or ()), *answers])
            return output

        return watched

    def found(self) -> Unmoved:
        """The outermost modules that were called with the same and gave the same."""
        first, *others = self._seen
        same = [
            name
            for name, calls in first.items()
            if calls and name not in self._unfit and all(o[name] == calls for o in others)
        ]
        kept = set(same)
        names = tuple(name for name in same if kept.isdisjoint(_above(name)))
        return Unmoved(names, sum(self._sizes[name] for name in names))


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return states


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@dataclass
class _Call:
    """A call of a module, as it went."""

    inputs: list[object]
    versions: list[int]
    output: Any
    answers: list[object]
    stamps: list[int]
    copies: bool = False


@dataclass
class _Module:
    """A module with cached outputs."""

    module: nn.Module
    forward: _Answer
    calls: int = 0
    missed: int = 0
    known: dict[tuple[int, ...], _Call] = field(default_factory=dict)


class Recall:
    """Replays the cached outputs of modules.

    Args:
        objective: whose modules these are.
        unmoved: what a `Watch` found.

    Attributes:
        memory: bytes that are held once all batches were walked, about.
    """

    def __init__(self, objective: Objective, unmoved: Unmoved) -> None:
        names = unmoved.names
        every = dict(_named_modules(objective)) if names else {}
        self._modules = [_Module(every[name], every[name].forward) for name in names]
        # Batches of a list come again; of others one is held while it is walked.
        self._keeps = isinstance(objective.batches, list | tuple)
        free = free_memory(objective.device) if names else 0
        self._budget = (free or 0) // _SHARE
        batches = (objective.count or 1) if self._keeps else 1
        self.memory = min(self._budget, batches * unmoved.bytes)
        self._held = 0
        self._here = 0, 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Modules answer from memory where they can."""
        for each in self._modules:
            # As it is now: an engine may have put another one in its place.
            each.forward = each.module.forward
        with patched(*((m.module, "forward", self._answer(m)) for m in self._modules)):
            yield

    def start(self, batch: int, piece: int = 0) -> None:
        """A pass over a batch begins.

        Args:
            batch: its number, the same at every point.
            piece: which part of it.
        """
        if not self._keeps and batch != self._here[0]:
            self._forget()
        self._here = batch, piece
        for each in self._modules:
            each.calls = 0

    def _forget(self) -> None:
        self._held = 0
        for each in self._modules:
            each.known.clear()

    def _answer(self, each: _Module) -> _Answer:
        def answer(*args: Any, **kwargs: Any) -> Any:
            place = (*self._here, each.calls)
            each.calls += 1
            if torch.is_grad_enabled() or each.missed > 1:
                return each.forward(*args, **kwargs)
            inputs, known = _flat((args, kwargs), objects=True), each.known.get(place)
            if inputs is None or (known is not None and not _same(known, inputs)):
                each.missed += 1
                return each.forward(*args, **kwargs)
            if known is not None and known.stamps == _versions(known.answers):
                return _rebuilt(known.output, copies=known.copies)
            versions = _versions(inputs)
            output = each.forward(*args, **kwargs)
            # Written into by whoever was given it: from now on they are given copies.
            self._keep(each, place, inputs, versions, output, copies=known is not None)
            return output

        return answer

    def _keep(
        self,
        each: _Module,
        place: tuple[int, ...],
        inputs: list[object],
        versions: list[int],
        output: Any,
        *,
        copies: bool,
    ) -> None:
        answers = _flat(output)
        if answers is None or versions != _versions(inputs):
            each.missed += 1
            return
        kept = _rebuilt(output, copies=copies)
        leaves = _flat(kept) or []
        call = _Call(inputs, versions, kept, leaves, _versions(leaves), copies)
        size = _bytes([*inputs, *leaves])
        if self._held + size > self._budget:
            # Batches beyond it are evaluated at every point.
            return
        self._held += size
        each.known[place] = call


def _same(known: _Call, inputs: list[object]) -> bool:
    if len(inputs) != len(known.inputs) or known.versions != _versions(known.inputs):
        return False
    return all(map(_same_value, known.inputs, inputs))


def _same_value(a: object, b: object) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and bool(a == b)
    if a is b:
        return True
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return alike and torch.equal(_bits(a), _bits(b))


def _bits(value: Tensor) -> Tensor:
    # Zeros of either sign are equal, and nan is not: bits are what counts.
    kind = _INTEGERS.get(value.element_size())
    return torch.view_as_real(value) if kind is None else value.view(kind)


def _flat(value: Any, *, objects: bool = False) -> list[object] | None:
    # Tensors and plain values with the containers they are in; None for anything else.
    leaves: list[object] = []
    return leaves if _put(value, leaves, objects=objects) else None


def _put(value: Any, leaves: list[object], *, objects: bool) -> bool:
    kind = type(value)
    if kind is tuple or kind is list:
        leaves.append((kind.__name__, len(value)))
        return all(_put(part, leaves, objects=objects) for part in value)
    if kind is dict:
        leaves.append(("dict", tuple(value)))
        return all(_put(part, leaves, objects=objects) for part in value.values())
    if isinstance(value, Tensor):
        leaves.append(value)
        return kind in {Tensor, nn.Parameter} and _is_dense(value)
    # By-products that a pass of a language model collects, in an object of its own.
    if objects and any(k.__module__ == "transformers.cache_utils" for k in kind.__mro__):
        leaves.append(kind.__name__)
        return True
    leaves.append(value)
    return isinstance(value, _PLAIN)


def _is_dense(value: Tensor) -> bool:
    strided = value.layout == torch.strided and not value.is_nested and not value.is_quantized
    # Inside vmap there are no numbers to compare, and inference tensors count no writes.
    batched = torch._C._functorch.is_functorch_wrapped_tensor(value)
    lazy = value.is_conj() or value.is_neg()
    return strided and not (batched or lazy or value.is_inference())


def _rebuilt(value: Any, *, copies: bool) -> Any:
    # Containers are the caller's own.
    if isinstance(value, tuple | list):
        return type(value)(_rebuilt(part, copies=copies) for part in value)
    if isinstance(value, dict):
        return {key: _rebuilt(part, copies=copies) for key, part in value.items()}
    return value.clone() if copies and isinstance(value, Tensor) else value


def _versions(values: list[object]) -> list[int]:
    return [value._version for value in values if isinstance(value, Tensor)]


def _bytes(values: list[object]) -> int:
    held = {v.data_ptr(): v.nbytes for v in values if isinstance(v, Tensor)}
    return sum(held.values())


def _digest(values: list[object]) -> list[object]:
    # A look at some entries: answers from memory compare all of them.
    return [_sample(value) if isinstance(value, Tensor) else value for value in values]


def _sample(value: Tensor) -> object:
    flat = _bits(value).flatten()
    return value.shape, value.dtype, flat[:: max(1, flat.numel() // _SAMPLE)].tolist()
