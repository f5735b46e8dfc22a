"""Seed code that uses global generators, and restore their states afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lossatlas.guard import preserved_rng
from lossatlas.rng import derive_seed, generator


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Run a block with global random states fixed by `parts`; restore them after it."""
    seed = derive_seed(*parts)
    with preserved_rng():
        reseed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - for code that draws from the global state
        random.seed(seed)
        yield


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Set torch's global generators; only inside `preserved_rng`."""
    # torch.manual_seed would also queue a seed for every GPU that is not in use yet.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def epoch_order(seed: int, epoch: int, examples: int) -> Tensor:
    """Order of the examples in an epoch: a pure function of its arguments.

    Args:
        seed: the seed of the data order.
        epoch: number of the epoch, from 0.
        examples: number of examples.

    Returns:
        A permutation, int64, shape (examples,).
    """
    return torch.randperm(examples, generator=generator(seed, "order", epoch))
