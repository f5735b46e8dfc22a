"""A test device: tensors that are on "cuda:0" as far as placement goes, held by the processor.

Inside `pretend_cuda()`, `torch.zeros(3, device="cuda")`, `.to("cuda")`, `.cuda()`,
`module.to("cuda")` and `torch.Generator("cuda")` give objects whose `device` is `cuda:0`. Their
numbers are computed by the kernels of the processor, so they equal those of the processor. What
CUDA refuses is refused with its words: operations over two devices, generators of the other
device, `numpy()` of a tensor on the device. Reads by the host are counted.

It shows nothing about kernels, streams, memory or speed, about what CUDA rounds otherwise
(TensorFloat-32, atomics) or lacks, or about `foreach` and fused optimizers, which take plain
tensors alone. `.data = ` of a plain tensor cannot become one of this device.

For torch itself these tensors are on "meta", the one device besides the processor whose
autograd works in a build without CUDA; `device` says otherwise. A "meta" device that torch
passes on from such a tensor is therefore this device, and one that Python code names is "meta".
"""

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch

# Imported while functions of torch are patched, it would take the patches for these.
import torch._dynamo  # noqa: F401

with warnings.catch_warnings():
    # The first forward derivative on "meta" loads it, and it warns of its own jit.
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp  # noqa: F401
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("cuda:0")
_META = torch.device("meta")
FREE = 8 << 30
_aten = torch.ops.aten
_Generator = torch.Generator
_local = threading.local()

# Where one operand may be elsewhere: copies between devices, and indices of the processor.
_COPIES = {_aten.copy_.default, _aten.copy.default, _aten._to_copy.default}
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}
# Those that take numbers (tensors without dimension) of the processor beside the pointwise.
_TAKES_NUMBERS = {
    _aten.fill.Tensor,
    _aten.fill_.Tensor,
    _aten.masked_fill.Tensor,
    _aten.masked_fill_.Tensor,
    _aten.where.self,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
# What makes the host wait for the device.
_READS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
}


class PretendTensor(torch.Tensor):
    """A tensor on `cuda:0`; `held` is the tensor of the processor with its numbers."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return 0

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        if not isinstance(value, PretendTensor) or value.shape != self.shape:
            raise NotImplementedError("only tensors of this device and shape can be set")
        self.held = value.held

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def tolist(self):
        _noted("tolist")
        return self.held.tolist()

    def data_ptr(self):
        return self.held.data_ptr()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def pin_memory(self, device=None):
        raise RuntimeError(
            "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
        )

    def is_pinned(self, device=None):
        return False

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        made = PretendTensor(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            made._is_param = True
        memo[id(self)] = made
        if self.grad is not None:
            made.grad = self.grad.detach().clone()
        return made

    def __reduce_ex__(self, protocol):
        kept = (self.held.detach(), self.requires_grad, isinstance(self, torch.nn.Parameter))
        return _rebuilt, kept

    def __repr__(self, *, tensor_contents=None):
        return f"PretendTensor({self.held})"


def _rebuilt(held, requires_grad, is_parameter):
    made = PretendTensor(held).requires_grad_(requires_grad)
    if is_parameter:
        made._is_param = True
    return made


class _GeneratorKind(type(torch.Generator)):
    def __instancecheck__(cls, other):
        return isinstance(other, _Generator)


class PretendGenerator(_Generator):
    """A generator of the device; its numbers are those of one of the processor."""

    device = property(lambda self: CARD)

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class _AnyGenerator(metaclass=_GeneratorKind):
    """What `torch.Generator` is inside `pretend_cuda`."""

    def __new__(cls, device="cpu"):
        return PretendGenerator() if torch.device(device).type == "cuda" else _Generator(device)


def _noted(name):
    card = getattr(_local, "card", None)
    if card is not None:
        card.reads[name] += 1


def _on_card(device):
    return device is not None and (
        device.type == "cuda" or (device.type == "meta" and not getattr(_local, "meta", False))
    )


def _run(func, args, kwargs):
    """One operation of aten, on what the tensors hold."""
    flat, _ = tree_flatten((args, kwargs))
    inside = any(isinstance(x, PretendTensor) for x in flat)
    if not inside and any(isinstance(x, torch.Tensor) and x.is_meta for x in flat):
        return func(*args, **kwargs)
    device = kwargs.get("device")
    card = inside if device is None else _on_card(device)
    if not inside and not card:
        return func(*args, **kwargs)
    if device is not None and device.type == "meta" and not card:
        return func(*tree_map(_held, args), **kwargs)
    if func is _aten._efficientzerotensor.default:
        func, kwargs = _aten.zeros.default, kwargs | {"layout": None}
    _check_devices(func, args, kwargs, flat, inside)
    source = next((x for x in flat if isinstance(x, _Generator)), None)
    if func in _READS or (inside and not card):
        _noted(func.name())
    if card and not inside and any(_plain(x) and x.ndim for x in flat):
        _local.card.sent += 1
    if device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
    with _drawing(func, source, card):
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func is _aten._to_copy.default and any(found is _held(x) for x in args):
        found = found.clone()
    return _returned(func, args, kwargs, found, card)


def _held(value):
    return value.held if isinstance(value, PretendTensor) else value


def _plain(value):
    return isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor)


def _check_devices(func, args, kwargs, flat, inside):
    if func in _COPIES:
        if func is _aten.copy_.default and _plain(args[0]):
            _noted(func.name())
        return
    if func in _INDEXED:
        if _plain(args[0]) and inside:
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor "
                "(cpu)"
            )
        flat, _ = tree_flatten((args[:1], args[2:], kwargs))
    numbers = torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS
    numbers = numbers or "_foreach" in func.name()
    away = [x for x in flat if _plain(x) and not (numbers and x.ndim == 0)]
    written = args and _plain(args[0]) and func._schema.is_mutable and inside
    if inside and (away or written):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! (when checking arguments for {func.name()})"
        )


def _check_generator(args, kwargs):
    # Operations of aten are given generators that have lost their class.
    flat, _ = tree_flatten((args, kwargs))
    source = next((x for x in flat if isinstance(x, _Generator)), None)
    if source is None:
        return
    device = kwargs.get("device")
    card = any(isinstance(x, torch.Tensor) and _bottom(x).is_cuda for x in flat)
    card = card or (device is not None and torch.device(device).type == "cuda")
    if isinstance(source, PretendGenerator) is not card:
        wanted, given = ("cuda", "cpu") if card else ("cpu", "cuda")
        raise RuntimeError(
            f"Expected a '{wanted}' device type for generator but found '{given}'"
        )


@contextmanager
def _drawing(func, source, card):
    """Draw from the default generator of the device where none is given."""
    if torch.Tag.nondeterministic_seeded not in func.tags or source is not None or not card:
        yield
        return
    default = _local.card.default
    kept = torch.default_generator.get_state()
    torch.default_generator.set_state(default.get_state())
    try:
        yield
    finally:
        default.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(kept)


def _returned(func, args, kwargs, found, card):
    """The results on their device; what was written in place is returned itself."""
    schema = func._schema
    if schema.is_mutable:
        written = [
            args[i] if i < len(args) else kwargs.get(argument.name)
            for i, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        for tensor in tree_flatten(written)[0]:
            if isinstance(tensor, PretendTensor) and tensor.shape != tensor.held.shape:
                with no_dispatch():
                    # The same change of shape for the tensor that torch sees.
                    func(*args, **kwargs)
        aliases = [r.alias_info is not None and r.alias_info.is_write for r in schema.returns]
        if aliases and all(aliases):
            return written[0] if len(aliases) == 1 else tuple(written[: len(aliases)])
        if not aliases:
            return None
    if not card:
        return found
    return tree_map(lambda x: PretendTensor(x) if _plain(x) else x, found)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _bottom(tensor):
    """What lies below the wrappers of torch.func."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _index(given):
    # torch makes tensors of lists on its own device, which is "meta".
    if isinstance(given, tuple):
        return tuple(map(_index, given))
    return torch.as_tensor(given) if isinstance(given, list | np.ndarray) else given


def _for_torch(place):
    return _META if isinstance(place, torch.device) and place.type == "cuda" else place


_MAKERS = (torch.tensor, torch.as_tensor, torch.asarray)


class _Functions(TorchFunctionMode):
    """What never reaches an operation of aten, or reaches it without its device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func == torch.Tensor.device.__get__:
            return CARD if isinstance(_bottom(args[0]), PretendTensor) else func(*args)
        if func in (torch.Tensor.is_cuda.__get__, torch.Tensor.is_meta.__get__):
            if isinstance(_bottom(args[0]), PretendTensor):
                return func == torch.Tensor.is_cuda.__get__
            return func(*args)
        if func is torch.Tensor.pin_memory:
            return args[0].clone()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _index(args[1]), *args[2:])
        _check_generator(args, kwargs)
        device = kwargs.get("device")
        if func in _MAKERS and device is not None and torch.device(device).type == "cuda":
            rest = {k: v for k, v in kwargs.items() if k != "device"}
            return _made_on_card(func, args, rest)
        if device is not None and not isinstance(device, int):
            if torch.device(device).type == "meta":
                return _on_real_meta(func, args, kwargs)
            kwargs = kwargs | {"device": _for_torch(torch.device(device))}
        if func is torch.Tensor.cuda:
            func, args = torch.Tensor.to, (args[0], CARD)
        if func is torch.Tensor.to and len(args) > 1:
            place = torch.device(args[1]) if isinstance(args[1], str) else args[1]
            args = (args[0], _for_torch(place), *args[2:])
        if func in _MAKERS and args and isinstance(args[0], list | tuple):
            args = (
                tree_map(lambda x: x.item() if isinstance(x, PretendTensor) else x, args[0]),
                *args[1:],
            )
        return func(*args, **kwargs)


def _made_on_card(func, args, kwargs):
    given = args[0] if args else kwargs.get("data")
    if isinstance(given, PretendTensor):
        dtype = kwargs.get("dtype") or given.dtype
        return given.detach().clone() if func is torch.tensor else given.to(dtype)
    needs = kwargs.pop("requires_grad", False)
    return func(*args, **kwargs).to(CARD).detach().requires_grad_(needs)


def _on_real_meta(func, args, kwargs):
    before, _local.meta = getattr(_local, "meta", False), True
    try:
        return func(*args, **kwargs)
    finally:
        _local.meta = before


def _keeping_ties(apply):
    """`nn.Module._apply` that keeps parameters shared, as the assignment to `.data` does."""

    def run(module, fn, recurse=True):
        if getattr(_local, "applying", False):
            return apply(module, fn, recurse)
        slots = [(m, n, p) for m in module.modules() for n, p in m._parameters.items()]
        _local.applying = True
        try:
            apply(module, fn, recurse)
        finally:
            _local.applying = False
        made = {}
        for owner, name, before in slots:
            if before is not None:
                owner._parameters[name] = made.setdefault(id(before), owner._parameters[name])
        return module

    return run


class Card:
    """What happened on the device.

    Attributes:
        reads: how often the host read from it, by operation.
        sent: how many tensors of the host were copied to it by `to`.
        default: its default generator.
    """

    def __init__(self):
        self.reads = Counter()
        self.sent = 0
        self.default = PretendGenerator()
        self.default.manual_seed(0)


@contextmanager
def _modes(card):
    _local.card = card
    try:
        with _Functions(), _Dispatch():
            yield
    finally:
        _local.card = None


@contextmanager
def pretend_cuda() -> Iterator[Card]:
    """A process that has one card, for the length of a block."""
    card = Card()
    run = threading.Thread.run

    def run_with_modes(thread):
        # Modes belong to a thread; a device belongs to all.
        with _modes(card):
            run(thread)

    def set_all(states):
        card.default.set_state(states[0])

    def seed_all(seed):
        card.default.manual_seed(seed)

    def no_op(*args, **kwargs):
        return None

    @contextmanager
    def stream(_):
        yield

    patches = {
        "_lazy_init": no_op,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": no_op,
        "get_device_name": lambda *_: "pretended",
        "synchronize": lambda *_: card.reads.update(["synchronize"]),
        "stream": stream,
        "current_stream": no_op,
        "empty_cache": no_op,
        "is_bf16_supported": lambda *_: True,
        "mem_get_info": lambda *_: (FREE, FREE),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "get_rng_state": lambda *_: card.default.get_state(),
        "get_rng_state_all": lambda: [card.default.get_state()],
        "set_rng_state": lambda state, *_: card.default.set_state(state),
        "set_rng_state_all": set_all,
        "manual_seed": seed_all,
        "manual_seed_all": seed_all,
        "default_generators": (card.default,),
    }
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", _AnyGenerator))
        apply = _keeping_ties(torch.nn.Module._apply)
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", apply))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_modes))
        stack.enter_context(_modes(card))
        yield card
