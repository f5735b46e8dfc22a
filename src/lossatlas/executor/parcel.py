"""Pickles in which the memory that tensors share is written once."""

import ctypes
import io
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


def pack(value: Any) -> bytes:
    """Bytes that `cloudpickle.loads` reads, each piece of memory once however many views."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def packed_size(value: Any) -> int:
    """How many bytes `pack` gives, without making them."""
    sink = _Sink()
    _Pickler(sink, sink).dump(value)
    return sink.size


class _Sink(io.RawIOBase):
    # Counts what is written, and memory that is not copied.
    size = 0

    def write(self, data: Any) -> int:
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes


class _Counted:
    # In the place of memory: nothing but its size.
    def __init__(self, storage: torch.UntypedStorage, sink: _Sink) -> None:
        self.storage, self._sink = storage, sink

    def __reduce__(self) -> tuple[Any, ...]:
        self._sink.size += self.storage.nbytes()
        return _unpacked, (b"",)


class _Memory:
    # What views of it are pickled with; the pickler writes one object once.
    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by `numpy()`, which takes the right to be resized from the tensors that are sent.
        size = self.storage.nbytes()
        data = (ctypes.c_char * size).from_address(self.storage.data_ptr()) if size else b""
        return _unpacked, (bytes(data),)


def _unpacked(data: bytes) -> _Memory:
    # Memory of torch's own: aligned for its kernels, and `resize_` can let it grow.
    storage = torch.empty(len(data), dtype=torch.uint8).untyped_storage()
    ctypes.memmove(storage.data_ptr(), data, len(data))
    return _Memory(storage)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, buffer: io.BytesIO | _Sink, sink: _Sink | None = None) -> None:
        super().__init__(buffer)
        self._sink = sink
        self._memories: dict[int, _Memory | _Counted] = {}

    def reducer_override(self, obj: Any) -> Any:
        """How a tensor is written: a place in memory that others may share."""
        if type(obj) not in _PLAIN or not _is_plain(obj):
            return super().reducer_override(obj)
        storage = obj.untyped_storage()
        sink = self._sink
        new = _Memory(storage) if sink is None else _Counted(storage, sink)
        memory = self._memories.setdefault(storage._cdata, new)
        place = (obj.dtype, obj.storage_offset(), tuple(obj.shape), obj.stride())
        return _view, (memory, *place, obj.requires_grad, type(obj) is nn.Parameter)


def _is_plain(value: Tensor) -> bool:
    usual = value.device.type == "cpu" and value.layout == torch.strided and value.is_leaf
    odd = value.is_nested or value.is_quantized or value.is_conj() or value.is_neg()
    return usual and not (odd or value._backward_hooks or value.__dict__)


def _view(
    memory: _Memory,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    *kind: bool,
) -> Tensor:
    needs_gradient, is_parameter = kind
    value = torch.empty(0, dtype=dtype).set_(memory.storage, offset, shape, stride)
    if is_parameter:
        return nn.Parameter(value, needs_gradient)
    return value.requires_grad_(needs_gradient)
