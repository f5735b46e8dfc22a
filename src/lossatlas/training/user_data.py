"""Convert data returned by a user function to a `Dataset`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lossatlas.errors import DataError
from lossatlas.training.dataset import Dataset

_FORMS = (
    "must return (inputs, targets) as tensors, a lossatlas.training.Dataset, a torch Dataset "
    "of such pairs, or a list of batches (inputs, targets)"
)

# Examples of a data set without an end may be as many as its length says.
_MOST = 10_000_000


def as_dataset(made: Any, spec: str, examples: int | None = None) -> Dataset:
    """Convert the return value of a factory, or raise a DataError with the accepted forms."""
    if isinstance(made, Dataset):
        data = made
    elif isinstance(made, tuple) and len(made) == 2 and all(map(_is_tensor, made)):
        data = _from_pair(*made, spec)
    else:
        data = _from_pair(*_read(made, spec, examples), spec)
    return data if examples is None else data.take(min(examples, len(data)))


def _from_pair(inputs: Tensor, targets: Tensor, spec: str) -> Dataset:
    if targets.is_floating_point():
        columns = targets.flatten(1) if targets.ndim > 1 else targets[:, None]
        return Dataset(inputs, columns, spec, "regression")
    return Dataset(inputs, targets, spec)


# A list of batches or of examples, or anything with a length and an index.
def _read(made: Any, spec: str, examples: int | None) -> tuple[Tensor, Tensor]:
    is_indexed = hasattr(made, "__len__") and hasattr(made, "__getitem__")
    other = isinstance(made, Mapping | str | Tensor | IterableDataset)
    if not is_indexed or other:
        raise _unreadable(spec, type(made).__name__)
    if not len(made):
        raise DataError(f"'{spec}' returned no examples; return at least one.")
    is_batch = isinstance(made, Sequence) and _is_batch(made[0])
    count = len(made) if examples is None or is_batch else min(examples, len(made))
    if count > _MOST:
        raise DataError(
            f"'{spec}' has {count:,} examples, which are read one by one; limit them with "
            "`examples`, or return tensors."
        )
    pairs = [_pair(made[k], spec) for k in range(count)]
    join = torch.cat if is_batch else torch.stack
    inputs, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    if len({part.shape[is_batch:] for part in inputs}) > 1:
        raise _unreadable(spec, "inputs of several shapes")
    return join(inputs), join(targets)


def _pair(item: Any, spec: str) -> tuple[Tensor, Tensor]:
    parts = tuple(item) if isinstance(item, tuple | list) else ()
    target: Any = parts[1] if len(parts) == 2 else None
    if isinstance(target, int | float) and not isinstance(target, bool):
        target = torch.tensor(target)
    if target is None or not _is_tensor(parts[0]) or not _is_tensor(target):
        described = ", ".join(type(part).__name__ for part in parts)
        raise _unreadable(
            spec, f"an item ({described})" if described else f"a {type(item).__name__}"
        )
    return parts[0], target


def _is_batch(item: Any) -> bool:
    if not isinstance(item, tuple | list) or len(item) != 2 or not all(map(_is_tensor, item)):
        return False
    inputs, targets = item
    return bool(inputs.ndim and targets.ndim and len(inputs) == len(targets))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _unreadable(spec: str, got: str) -> DataError:
    location = spec.partition("(")[0].rpartition(":")[0] or "FILE.py"
    return DataError(
        f"'{spec}' {_FORMS}; got {got}. For a DataLoader or batches of another form write "
        f"--objective {location}:make, where make returns a lossatlas.Objective."
    )
