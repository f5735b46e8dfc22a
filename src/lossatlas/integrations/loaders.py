"""Data loaders of training frameworks, iterated in a fixed order."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError


class InOrder:
    """Batches of a loader in the order of its data set, any number of times.

    Args:
        loader: a DataLoader; a shuffling one is replaced by an equal one without shuffling. Any
            other iterable is used unchanged.
        limit: number of batches. Default: all.

    Raises:
        ArgumentError: `loader` is not iterable, or `limit` is below 1.
    """

    def __init__(self, loader: Any, limit: int | None = None) -> None:
        if not isinstance(loader, Iterable):
            raise ArgumentError(
                "`dataloader` must be one DataLoader or a list of batches; got "
                f"{type(loader).__name__}."
            )
        if limit is not None:
            check_at_least("limit", limit, 1)
        self._loader, self._limit = _unshuffled(loader), limit

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._loader), self._limit)

    def __len__(self) -> int:
        """Number of batches; raises a TypeError if the loader has no length."""
        length = len(self._loader)
        return length if self._limit is None else min(length, self._limit)


def _unshuffled(loader: Any) -> Any:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    if not isinstance(loader.sampler, RandomSampler):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=SequentialSampler(loader.dataset),  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        worker_init_fn=loader.worker_init_fn,
    )
