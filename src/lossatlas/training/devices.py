"""Where to compute."""

import torch

from lossatlas.errors import ArgumentError


def chosen_device(name: str | torch.device) -> torch.device:
    """The device of a name, tried out."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        # The sentences that follow are of how torch was built.
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        there = ", ".join(map(repr, _there()))
        raise ArgumentError(
            f"`device`: {str(name)!r} cannot be used ({reason}); there is {there}."
        ) from None


def _there() -> list[str]:
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    others = [kind for kind in ("mps", "xpu") if getattr(torch, kind).is_available()]
    return ["cpu", *cards, *others]
