"""Randomness as an argument: seeds derived from names, and local generators."""

import hashlib

import torch

from lossatlas.errors import ArgumentError


def derive_seed(*parts: object) -> int:
    """Derive a seed that depends on all parts and nothing else.

    Args:
        *parts: numbers and strings, as in `derive_seed(seed, "axis", 0, "fc1.weight")`.

    Returns:
        An integer in [0, 2**63), equal in every process and on every machine.

    Raises:
        ArgumentError: the first part, usually a seed, is neither an integer nor a string.

    Examples:
        >>> derive_seed(0, "a") == derive_seed(0, "b")
        False
    """
    seed = parts[0] if parts else None
    if isinstance(seed, bool) or not (isinstance(seed, str) or hasattr(seed, "__index__")):
        raise ArgumentError(f"`seed` must be a whole number; got {seed!r}.")
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: object, device: str | torch.device = "cpu") -> torch.Generator:
    """Create a torch generator seeded by `derive_seed(*parts)`; global state is not changed.

    Args:
        *parts: as for `derive_seed`.
        device: device of the generator.

    Returns:
        A new generator.
    """
    return torch.Generator(device).manual_seed(derive_seed(*parts))
