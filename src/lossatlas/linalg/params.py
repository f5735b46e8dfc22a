"""Points and vectors of parameter space: arithmetic on mappings name -> tensor."""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

Params = Mapping[str, Tensor]


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
    return math.fsum(
        float(torch.dot(value.flatten().double(), b[name].flatten().double()))
        for name, value in a.items()
    )


def norm(a: Params) -> float:
    """The Euclidean length, accumulated in float64."""
    return math.sqrt(dot(a, a))


def size(a: Params) -> int:
    """How many numbers the mapping holds."""
    return sum(value.numel() for value in a.values())


def snapshot(a: Params) -> dict[str, Tensor]:
    """A copy that later changes of `a` do not reach."""
    return {name: value.detach().clone() for name, value in a.items()}


def fingerprint(a: Params) -> str:
    """A digest of names, shapes, types and bits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in a.items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(memoryview(_bytes(value)))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
