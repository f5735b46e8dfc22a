"""Selection of the device."""

import torch

from lossatlas.errors import ArgumentError


def chosen_device(name: str | torch.device) -> torch.device:
    """Return the device of a name, after a test allocation."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        # The sentences that follow are of how torch was built.
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        available = ", ".join(map(repr, _available()))
        raise ArgumentError(
            f"`device`: {str(name)!r} cannot be used ({reason}); available: {available}."
        ) from None


def _available() -> list[str]:
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    others = [kind for kind in ("mps", "xpu") if getattr(torch, kind).is_available()]
    return ["cpu", *cards, *others]
