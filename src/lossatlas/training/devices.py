"""Where to compute."""

import torch

from lossatlas.errors import ArgumentError


def chosen_device(name: str) -> torch.device:
    """The device of a name, tried out."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"`device`: {name!r} cannot be used ({reason}).") from None
