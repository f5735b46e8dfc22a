"""Arithmetic on points and vectors of parameter space, mappings name -> tensor."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

Params = Mapping[str, Tensor]
# Numbers that are widened at once.
_BLOCK = 2**20


def qualified_name(path: str, name: str) -> str:
    """Name in the whole model of what the module at `path` calls `name`; "" is the model."""
    return f"{path}.{name}" if path else name


def add(a: Params, b: Params, *, scale: float = 1.0) -> dict[str, Tensor]:
    """The point a + scale * b."""
    return {name: torch.add(value, b[name], alpha=scale) for name, value in a.items()}


def subtract(a: Params, b: Params) -> dict[str, Tensor]:
    """The vector a - b."""
    return add(a, b, scale=-1.0)


def multiply(a: Params, factor: float) -> dict[str, Tensor]:
    """The vector factor * a."""
    return {name: value * factor for name, value in a.items()}


def dot(a: Params, b: Params) -> float:
    """The inner product, accumulated in float64."""
    parts = [part for n, v in a.items() for part in _dots(v.flatten(), b[n].flatten())]
    return math.fsum(on_host(parts))


def exact_dots(vector: Tensor, *others: Tensor) -> list[float]:
    """The inner products of a flat vector with others, accumulated in float64."""
    each = [_dots(vector, other) for other in others]
    told = iter(on_host([part for parts in each for part in parts]))
    return [math.fsum(islice(told, len(parts))) for parts in each]


def _dots(a: Tensor, b: Tensor) -> list[Tensor]:
    # Some at a time: all at once would be two copies in twice the width.
    wide = wide_dtype(a.device)
    pairs = zip(torch.split(a, _BLOCK), torch.split(b, _BLOCK), strict=True)
    return [torch.dot(x.to(wide), y.to(wide)) for x, y in pairs]


def on_host(numbers: Sequence[Tensor]) -> list[float]:
    """Convert scalar tensors to numbers, with one copy per device and dtype."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, each in enumerate(numbers):
        places.setdefault((each.device, each.dtype), []).append(place)
    told = [0.0] * len(numbers)
    for indices in places.values():
        values = torch.stack([numbers[place] for place in indices]).tolist()
        for place, value in zip(indices, values, strict=True):
            told[place] = value
    return told


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype of accumulated sums: float64, if the device supports it."""
    return torch.float32 if device.type == "mps" else torch.float64


def norm(a: Params) -> float:
    """The Euclidean length, accumulated in float64."""
    return math.sqrt(dot(a, a))


def size(a: Params) -> int:
    """Number of entries of all tensors."""
    return sum(value.numel() for value in a.values())


def snapshot(a: Params) -> dict[str, Tensor]:
    """A copy that does not change with `a`."""
    return {name: value.detach().clone() for name, value in a.items()}


def fingerprint(a: Params) -> str:
    """A digest of names, shapes, types and bits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in a.items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    # As they lie in memory: a copy costs as much as the digest.
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
