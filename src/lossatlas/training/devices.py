"""Where to compute."""

import torch

from lossatlas.errors import ArgumentError


def chosen_device(name: str | torch.device) -> torch.device:
    """The device of a name, tried out."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArgumentError(
            f"`device`: {str(name)!r} cannot be used ({reason}); "
            f"there is {', '.join(map(repr, _there()))}."
        ) from None


def _there() -> list[str]:
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]
