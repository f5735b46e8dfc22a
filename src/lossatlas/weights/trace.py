"""Following tensor axes through the operations of one forward pass.

No module is known by name: what runs is seen by a dispatch mode, and every operation says how
its axes belong together (`axis_rules`). An operation without a rule holds everything that
enters and leaves it, which loses symmetries and never invents one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from lossatlas.objective.recurrent import has_recurrent_layers
from lossatlas.weights.axes import (
    Axis,
    hold,
    unify,
)

Labels = list[Axis]
BOUND = "a buffer"
# Torch runs these where it likes: whether a tensor is kept alive decides.
UNCOUNTED = {"detach", "alias", "lift_fresh"}


@dataclass(eq=False)
class Call:
    """One operation that ran.

    Attributes:
        name: as in "addmm".
        args: positional arguments.
        kwargs: keywords.
        tensors: tensors among the arguments.
        outputs: tensors among the results.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: list[Tensor]
    outputs: list[Tensor]

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by place or by keyword."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)

    @property
    def first(self) -> Tensor:
        """The first result."""
        return self.outputs[0]


def tensors_in(tree: Any) -> list[Tensor]:
    """Tensors among arguments or results of an operation, in order."""
    # Not by torch's general trees, which take half of the time of a trace.
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    tensors: list[Tensor] = []
    for part in tree:
        if isinstance(part, Tensor):
            tensors.append(part)
        elif isinstance(part, list | tuple | dict):
            tensors += tensors_in(part)
    return tensors


@contextmanager
def plain_operations(model: nn.Module) -> Iterator[None]:
    """Let recurrent layers and attention run as the small operations that they are made of."""
    before = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    # Convolutions are one operation either way, and two times as fast with it.
    is_fused = has_recurrent_layers(model)
    torch.backends.mkldnn.enabled = before[0] and not is_fused  # type: ignore[assignment]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mkldnn.enabled = before[0]
        torch.backends.mha.set_fastpath_enabled(before[1])


@cache
def operation_name(function: Any) -> str:
    """The name of what a dispatch mode is handed, as in "addmm"."""
    packet = getattr(function, "overloadpacket", function)
    return str(getattr(packet, "__name__", function))


# What an operation does with axes; False where it cannot serve a call.
Rule = Callable[["AxisTrace", Call], bool | None]


@dataclass(eq=False)
class _Labeled:
    # The tensor is kept: its id may not come again while labels are looked up by it.
    tensor: Tensor
    labels: Labels
    # What its parts have in common once somebody reads it: a last hidden state may be ignored.
    ties: list[tuple[Axis, Axis]] = field(default_factory=list)
    is_read: bool = False
    is_statistic: bool = False


@dataclass(eq=False)
class AxisTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels every axis of every tensor while operations run.

    Args:
        params: name -> tensor that the model holds while it is traced.
        buffers: the same; held, but for the statistics of norm layers.
        rule_of: the rule of an operation, by what a dispatch mode is handed; None holds all.
    """

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    rule_of: Callable[[Any], Rule | None]
    unknown: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._labeled: dict[int, _Labeled] = {}
        for tensor in (*self.params.values(), *self.buffers.values()):
            self._labeled.setdefault(
                id(tensor), _Labeled(tensor, [Axis(size) for size in tensor.shape])
            )
        self._bound = {id(tensor) for tensor in self.buffers.values()}
        # When each result was made, what was made of weights alone, what entered a contraction.
        self.made: dict[int, tuple[int, int]] = {}
        self.contracted: list[tuple[Tensor, int]] = []
        self._weights = {id(tensor) for tensor in self.params.values()}
        self._count = 0
        # Slices of zeros have axes of their own, as long as nothing is written into them.
        self._zeros: dict[int, list[Labels]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = operation_name(func)
        tensors = tensors_in(args)
        if kwargs:
            tensors += tensors_in(kwargs)
        call = Call(name, args, kwargs or {}, tensors, tensors_in(out))
        self._note(call)
        if name.endswith("_") and call.tensors:
            self._written(call.tensors[0])
        chosen = self.rule_of(func)
        if chosen is None or chosen(self, call) is False:
            self.unknown[name] += 1
            for tensor in (*call.tensors, *call.outputs):
                self.hold_all(tensor, f"operation {name}")
        return out

    def _note(self, call: Call) -> None:
        if call.name in UNCOUNTED:
            if (known := self.made.get(id(call.tensors[0]))) is not None:
                self.made[id(call.first)] = known
            return
        inputs = call.tensors
        from_weights = bool(inputs) and all(id(tensor) in self._weights for tensor in inputs)
        for k, tensor in enumerate(call.outputs):
            self.made[id(tensor)] = self._count, k
            if from_weights:
                self._weights.add(id(tensor))
        self._count += 1

    def enters(self, tensor: Tensor, axis: int) -> None:
        """Note that data are contracted along an axis: activations of its units."""
        if id(tensor) in self.made and id(tensor) not in self._weights:
            self.contracted.append((tensor, axis % tensor.ndim))

    def labels(self, tensor: Tensor, *, statistic: bool = False) -> Labels:
        """The axes of a tensor; those of data are held."""
        labeled = self._labeled.get(id(tensor))
        if labeled is None:
            labeled = _Labeled(tensor, [Axis(size, "data") for size in tensor.shape])
            self._labeled[id(tensor)] = labeled
        labeled.is_read = True
        labeled.is_statistic |= statistic
        while labeled.ties:
            unify(*labeled.ties.pop(), "joined tensors")
        if id(tensor) in self._bound and not labeled.is_statistic:
            for axis in labeled.labels:
                hold(axis, BOUND)
        return labeled.labels

    def put(
        self,
        tensor: Tensor,
        labels: Sequence[Axis],
        ties: Iterable[tuple[Axis, Axis]] = (),
    ) -> None:
        """Label a result; `ties` are unified when it is read."""
        sizes = [axis.size for axis in labels]
        if sizes != list(tensor.shape):
            raise AssertionError(f"labels {sizes} for a tensor of shape {list(tensor.shape)}")
        labeled = self._labeled.get(id(tensor))
        if labeled is not None and labeled.tensor is tensor:
            labeled.labels, labeled.ties = list(labels), list(ties)
        else:
            self._labeled[id(tensor)] = _Labeled(tensor, list(labels), list(ties))

    def put_zeros(self, tensor: Tensor) -> None:
        """Label zeros, or a slice of them: equal entries know no order."""
        labels = [Axis(size) for size in tensor.shape]
        self.put(tensor, labels)
        self._zeros.setdefault(tensor.untyped_storage().data_ptr(), []).append(labels)

    def is_zeros(self, tensor: Tensor) -> bool:
        """Whether a tensor is a slice of zeros that nothing was written into."""
        return (
            tensor.untyped_storage().data_ptr() in self._zeros and id(tensor) in self._labeled
        )

    def _written(self, tensor: Tensor) -> None:
        slices = self._zeros.pop(tensor.untyped_storage().data_ptr(), [])
        if len(slices) > 1:
            for axis in (axis for labels in slices for axis in labels):
                hold(axis, "slices of one tensor are written into")

    def hold_all(self, tensor: Tensor, why: str) -> None:
        """Let no axis of a tensor move."""
        for axis in self.labels(tensor):
            hold(axis, why)

    def everything(self) -> list[Labels]:
        """The labels of all tensors that were seen."""
        return [labeled.labels for labeled in self._labeled.values()]

    def finish(self) -> None:
        """Hold what no operation read: its axes look free."""
        for tensor in (*self.params.values(), *self.buffers.values()):
            labeled = self._labeled[id(tensor)]
            if not labeled.is_read or (id(tensor) in self._bound and not labeled.is_statistic):
                for axis in labeled.labels:
                    hold(axis, "not used by this batch")

    def broadcast(self, tensors: Iterable[Tensor], shape: torch.Size, where: str) -> Labels:
        """The axes of an elementwise result; axes of size 1 are no partners."""
        labels: list[Axis | None] = [None] * len(shape)
        for tensor in tensors:
            offset = len(shape) - tensor.ndim
            for k, axis in enumerate(self.labels(tensor), start=offset):
                if k < 0 or (axis.size == 1 and shape[k] != 1):
                    continue
                present = labels[k]
                if present is None:
                    labels[k] = axis
                else:
                    unify(present, axis, where)
        return [
            axis if axis is not None else Axis(n, bent=True)
            for axis, n in zip(labels, shape, strict=True)
        ]
