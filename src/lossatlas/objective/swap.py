"""Other weights on a model for the length of a block, without writing into its tensors."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from lossatlas.linalg.params import qualified_name

_Entries = dict[str, Tensor | None]
_Slot = tuple[_Entries, str, Tensor | None]


@contextmanager
def swapped_in(
    model: nn.Module, params: Mapping[str, Tensor], also: Iterable[nn.Module] = ()
) -> Iterator[None]:
    """Let modules hold other tensors: the given parameters, and clones of all buffers."""
    before: list[_Slot] = []
    try:
        before += _put(model.named_modules(), params)
        for module in also:
            before += _put(module.named_modules(), {})
        yield
    finally:
        for entries, key, value in reversed(before):
            entries[key] = value


def _put(
    modules: Iterable[tuple[str, nn.Module]], params: Mapping[str, Tensor]
) -> Iterator[_Slot]:
    # What stands for which tensor: a tied weight has one name, its other places follow.
    tied: dict[int, Tensor] = {}
    clones: dict[int, Tensor] = {}
    for path, module in modules:
        if params and module._parameters:
            yield from _put_parameters(path, cast(_Entries, module._parameters), params, tied)
        if module._buffers:
            yield from _put_clones(path, module._buffers, params, clones)


def _put_parameters(
    path: str, entries: _Entries, params: Mapping[str, Tensor], tied: dict[int, Tensor]
) -> Iterator[_Slot]:
    for key, value in list(entries.items()):
        new = params.get(qualified_name(path, key))
        if new is not None:
            tied[id(value)] = new
        elif (new := tied.get(id(value))) is None:
            continue
        yield entries, key, value
        entries[key] = new


def _put_clones(
    path: str, entries: _Entries, params: Mapping[str, Tensor], clones: dict[int, Tensor]
) -> Iterator[_Slot]:
    for key, value in list(entries.items()):
        if value is not None:
            yield entries, key, value
            if id(value) not in clones:
                given = params.get(qualified_name(path, key))
                clones[id(value)] = value.clone() if given is None else _like(given, value)
            entries[key] = clones[id(value)]


def _like(given: Tensor, own: Tensor) -> Tensor:
    if given.is_meta:
        # Where passes are counted, without numbers.
        return given.detach()
    return given.detach().to(own.device, own.dtype, copy=True)
