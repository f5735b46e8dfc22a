"""A digest of the data, taken anew only where the data may have changed."""

import hashlib
from collections.abc import Iterable, Iterator

from torch import Tensor

from lossatlas.guard import preserved_rng
from lossatlas.linalg.params import fingerprint
from lossatlas.objective.batches import Batch, tensors

_State = list[tuple[object, ...]]


class DataFingerprint:
    """Remembers the digest of batches that stay in memory.

    Reading the data takes longer than a small map does. Torch counts the changes of a tensor,
    so the digest is good while the same tensors have the same count; batches that are made
    while walking are read every time.
    """

    def __init__(self) -> None:
        self._known: tuple[_State, list[Tensor], str] | None = None

    def of(self, batches: Iterable[Batch]) -> str:
        """The digest of all tensors of all batches."""
        if not isinstance(batches, list | tuple):
            return data_fingerprint(batches)
        held = [value for batch in batches for value in tensors(batch)]
        state: _State = [(id(value), value.data_ptr(), _changes(value)) for value in held]
        if self._known is None or self._known[0] != state:
            # The tensors are held, so that no other one can come to have the same identity.
            self._known = (state, held, data_fingerprint(batches))
        return self._known[2]

    def __getstate__(self) -> dict[str, object]:
        # Identities mean nothing in another process.
        return {"_known": None}


def _changes(value: Tensor) -> object:
    # Tensors made in inference mode do not count; they are never equal to themselves here.
    return float("nan") if value.is_inference() else value._version


def data_fingerprint(batches: Iterable[Batch]) -> str:
    """A digest of all tensors of all batches."""
    digest = hashlib.blake2b(digest_size=16)
    with preserved_rng():
        for batch in batches:
            digest.update(fingerprint(dict(_numbered(batch))).encode())
    return digest.hexdigest()


def _numbered(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for index, value in enumerate(tensors(batch)):
        if value.is_nested:
            # Jagged: its rows have no common shape, their values and lengths have.
            yield f"{index}.values", value.values()
            yield f"{index}.offsets", value.offsets()  # type: ignore[attr-defined]
        else:
            yield str(index), value
