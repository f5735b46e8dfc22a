"""Batches of any structure: tensors anywhere inside tuples, lists and mappings."""

import copy
import dataclasses
import operator
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lossatlas.errors import ArgumentError, DataError, DataWarning
from lossatlas.guard import preserved_rng

Batch = Any
# Batches beyond their length, or of those without one, after which data seem never to end.
MOST_BEYOND = 1000
# Where a DataLoader over a stream keeps the length that it was asked for.
_ASKED = "_IterableDataset_len_called"
# Of which data it was said that they are longer than they say.
_WARNED: weakref.WeakSet[Any] = weakref.WeakSet()
_SOME = "list(itertools.islice(batches, 64))"


def check_walkable(batches: Any) -> None:
    """Require something that can be walked again and again; it is not looked into."""
    if isinstance(batches, Tensor | Mapping) or (
        isinstance(batches, tuple) and all(isinstance(part, Tensor) for part in batches)
    ):
        raise ArgumentError(
            "`batches` must be a list of batches; got one batch: wrap it, [batch]."
        )
    if isinstance(batches, Iterator):
        raise ArgumentError(
            "`batches` must be walkable many times; got an iterator, which is empty after one "
            "walk: pass list(batches) or the DataLoader itself; of one that never ends "
            f"{_SOME}."
        )
    if not isinstance(batches, Iterable):
        kind = type(batches).__name__
        raise ArgumentError(f"`batches` must be a list of batches or a DataLoader; got {kind}.")


def check_batches(batches: Any) -> Iterable[Batch]:
    """Require something that can be walked again and again, and holds a batch."""
    check_walkable(batches)
    # A loader draws a seed whenever it is walked.
    with preserved_rng():
        first = next(iter(batches), None)
    if first is None:
        raise DataError("`batches` must hold at least one batch; got none: check the data set.")
    checked: Iterable[Batch] = batches
    return checked


def known_length(batches: Iterable[Batch], measure: Callable[[Any], int] = len) -> int | None:
    """How many batches there are, where they say so."""
    try:
        # Every DataLoader has `__len__`; over a stream it raises, each kind in its own way.
        with _hidden_length(batches):
            return measure(batches)
    except (TypeError, NotImplementedError, AttributeError, ValueError):
        return None


def walk_to_end(batches: Iterable[Batch]) -> Iterator[Batch]:
    """All batches, one after another; data that seem never to end are an error."""
    length = known_length(batches)
    # Also of what only knows an upper bound, which Python calls a hint.
    bound = known_length(batches, operator.length_hint) if length is None else length
    most = MOST_BEYOND + (bound or 0)
    with _hidden_length(batches):
        source = iter(batches)
    for count, batch in enumerate(source):
        if count == length:
            _warn_of_length(batches, length)
        if count >= most:
            stated = "no length" if length is None else f"a length of {length:,}"
            raise DataError(
                f"`batches` has {stated} and did not end after {most:,} batches: a stream that "
                f"never ends cannot be walked. Pass some of it, {_SOME} (`limit=` where a "
                "trainer gives the data); one that does end needs a `__len__`."
            )
        yield batch


@contextmanager
def _hidden_length(batches: Any) -> Iterator[None]:
    # A DataLoader that was asked for a length that is too small warns at every further batch.
    held = getattr(batches, "__dict__", {})
    before = held.get(_ASKED)
    if _ASKED in held:
        held[_ASKED] = None
    try:
        yield
    finally:
        if _ASKED in held:
            held[_ASKED] = before


def _warn_of_length(batches: Any, length: int) -> None:
    try:
        has_warned = batches in _WARNED
        _WARNED.add(batches)
    except TypeError:
        # What cannot be remembered is warned of at every walk.
        has_warned = False
    if not has_warned:
        warnings.warn(
            f"`batches` has a length of {length:,} and gave more batches than that; all of "
            "them count. Mend its `__len__`, or that of the data set of a DataLoader.",
            DataWarning,
            stacklevel=3,
        )


def tensors(batch: Batch) -> Iterator[Tensor]:
    """All tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
        return
    for part in _parts(batch):
        yield from tensors(part)


def _parts(batch: Batch) -> Iterable[Any]:
    if isinstance(batch, list | tuple):
        return batch
    if isinstance(batch, Mapping):
        return batch.values()
    if _is_graph(batch):
        return list(batch.to_dict().values())
    if _is_record(batch):
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return ()


def batch_size(batch: Batch) -> int:
    """How many examples a batch holds, as far as its structure tells."""
    first = batch[0] if type(batch) in {list, tuple} and batch else None
    if type(first) is Tensor and first.ndim and all(type(part) is Tensor for part in batch):
        # Nearly every batch; asked for at every piece of every point.
        size = len(first)
    else:
        known = known_size(batch)
        size = _first_length(batch) if known is None else known
    if size == 0:
        raise DataError(
            "a batch is empty (its first tensor has length 0); drop it from the data."
        )
    return size


def known_size(batch: Batch) -> int | None:
    """How many examples a container that knows it says there are."""
    if isinstance(batch, Tensor):
        return int(batch.size(0)) if batch.is_nested else None
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if _is_graph(batch):
        graphs = getattr(batch, "num_graphs", None)
        return None if graphs is None else int(graphs)
    if _is_tensordict(batch):
        return int(batch.batch_size[0]) if batch.batch_size else None
    return next((size for size in map(known_size, _parts(batch)) if size is not None), None)


def _first_length(batch: Batch) -> int:
    return next((len(value) for value in tensors(batch) if value.ndim), 1)


def map_tensors(change: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """The same structure with every tensor changed."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, PackedSequence):
        return _packed_like(batch, change)
    if _is_graph(batch) or _is_tensordict(batch):
        # Graphs write into themselves: a shallow copy has stores of its own.
        return copy.copy(batch).apply(change)
    return _map_containers(change, batch)


def _map_containers(change: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    if isinstance(batch, Mapping):
        changed = {key: map_tensors(change, value) for key, value in batch.items()}
        return _mapping_like(batch, changed)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(change, value) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(change, value) for value in batch)
    if _is_record(batch):
        names = [field.name for field in dataclasses.fields(batch) if field.init]
        changed = {name: map_tensors(change, getattr(batch, name)) for name in names}
        return dataclasses.replace(batch, **changed)
    return batch


def _mapping_like(batch: Mapping[Any, Any], changed: dict[Any, Any]) -> Mapping[Any, Any]:
    if isinstance(batch, defaultdict):
        return defaultdict(batch.default_factory, changed)
    return changed if type(batch) is dict else type(batch)(changed)  # type: ignore[call-arg]


def _packed_like(batch: PackedSequence, change: Callable[[Tensor], Tensor]) -> PackedSequence:
    # The lengths stay on the CPU; places of sequences go where the data go.
    data = change(batch.data)
    places = [
        None if place is None else place.to(data.device)
        for place in (batch.sorted_indices, batch.unsorted_indices)
    ]
    return PackedSequence(data, batch.batch_sizes, *places)


def _is_graph(batch: Batch) -> bool:
    # Of PyTorch Geometric, which is known by its module so that it need not be imported.
    return any(
        kind.__module__.startswith("torch_geometric.data") for kind in type(batch).__mro__
    )


def _is_tensordict(batch: Batch) -> bool:
    return isinstance(getattr(batch, "batch_size", None), torch.Size) and hasattr(
        batch, "apply"
    )


def _is_record(batch: Batch) -> bool:
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; the same object where it is there already."""
    if all(value.device == device for value in tensors(batch)):
        return batch
    return map_tensors(lambda value: value.to(device), batch)


class Uploads:
    """Batches of the host on a device, sent once for many walks where they all fit.

    Args:
        device: where to.
        budget: bytes that they may take there; None sends them anew at every walk.
    """

    def __init__(self, device: torch.device, budget: int | None) -> None:
        self._device, self._left = device, budget or 0
        self._kept: dict[int, Batch] = {}

    def __call__(self, index: int, batch: Batch) -> Batch:
        """One batch on the device, by its place in the list of batches."""
        if index in self._kept:
            return self._kept[index]
        sent = map_tensors(self._send, batch) if self._is_away(batch) else batch
        size = sum(value.numel() * value.element_size() for value in tensors(sent))
        if sent is not batch and size <= self._left:
            self._left -= size
            self._kept[index] = sent
        return sent

    def _is_away(self, batch: Batch) -> bool:
        return any(value.device != self._device for value in tensors(batch))

    def _send(self, value: Tensor) -> Tensor:
        if self._device.type == "cuda" and value.device.type == "cpu" and not value.is_nested:
            return value.pin_memory().to(self._device, non_blocking=True)
        return value.to(self._device)


def split(batch: Batch, size: int) -> list[Batch]:
    """The batch in pieces of at most `size` examples."""
    return [cut(batch, start, start + size) for start in range(0, batch_size(batch), size)]


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Some examples of a batch.

    Args:
        batch: any structure; tensors as long as the batch are cut along axis 0.
        start: the first example.
        stop: one after the last.

    Returns:
        A batch of the same structure; its tensors are views.

    Raises:
        DataError: what came out holds another number of examples: a packed sequence or a graph
            is not cut along axis 0.
    """
    return rows(batch, slice(start, stop))


def rows(batch: Batch, places: slice | list[int]) -> Batch:
    """Examples of a batch by their places, as `cut`; a list of places gives copies."""
    total = batch_size(batch)
    piece = map_tensors(
        lambda value: rows_of(value, places) if value.ndim and len(value) == total else value,
        batch,
    )
    wanted = len(range(total)[places]) if isinstance(places, slice) else len(places)
    if batch_size(piece) != wanted:
        raise DataError(
            f"a batch of {total} examples cannot be cut into pieces of {wanted}: its structure "
            "(a packed sequence, a graph) is not one of rows."
        )
    return piece


def rows_of(value: Tensor, places: slice | list[int]) -> Tensor:
    """Some rows of a tensor."""
    if not value.is_nested:
        return value[places]
    parts = value.unbind()
    kept = parts[places] if isinstance(places, slice) else [parts[k] for k in places]
    return torch.nested.as_nested_tensor(list(kept), layout=value.layout)
