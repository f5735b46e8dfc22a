"""The one place where the controller reads and writes learning rates."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError

Optimizer = torch.optim.Optimizer


class Rates:
    """Scheduled rates, and the scaled ones that are written into the groups.

    A rate that somebody else writes is the new scheduled rate of its group. Groups may be
    added later.

    Args:
        optimizer: its groups are read at every call.

    Attributes:
        scheduled: rates before scaling, one a group.
        base: rates that schedules start from, one a group.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.scheduled: list[float] = []
        self.base: list[float] = []
        self._written: list[float] = []
        self.refresh()

    def refresh(self) -> None:
        """Take in what others have written, and groups that are new."""
        present = rates_of(self._optimizer)
        for index, rate in enumerate(present):
            if index == len(self.scheduled):
                group = self._optimizer.param_groups[index]
                self.base.append(float(group.setdefault("initial_lr", group["lr"])))
                self.scheduled.append(rate)
                self._written.append(rate)
            elif rate != self._written[index]:
                self.scheduled[index] = self._written[index] = rate

    def unscaled(self) -> None:
        """Write the scheduled rates themselves, as whoever schedules wants to find them."""
        self.refresh()
        self.write([1.0] * len(self.scheduled))

    def write(self, scales: Sequence[float]) -> list[float]:
        """Write the scheduled rates times a scale; what is in the groups then."""
        groups = zip(self._optimizer.param_groups, self.scheduled, scales, strict=True)
        self._written = [_write(group, rate * scale) for group, rate, scale in groups]
        return self._written

    def ratios(self) -> list[float]:
        """The present rates over the base rates."""
        pairs = zip(rates_of(self._optimizer), self.base, strict=True)
        return [rate / base if base else 0.0 for rate, base in pairs]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"scheduled": list(self.scheduled), "base": list(self.base)}

    def load(self, state: dict[str, Any], scales: Sequence[float]) -> None:
        """Go on from a state and write its rates."""
        groups = len(self._optimizer.param_groups)
        if len(state["scheduled"]) != groups:
            raise ArgumentError(
                f"the state is of {len(state['scheduled'])} parameter groups; the optimizer "
                f"has {groups}: build it as it was, and add groups before loading."
            )
        self.scheduled, self.base = list(state["scheduled"]), list(state["base"])
        self.write(scales)


def rates_of(optimizer: Optimizer) -> list[float]:
    """The present rates."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def bounds(argument: str, value: Any, groups: int) -> list[float]:
    """Bounds of the scale, one a group."""
    several = [value] if is_number(value) else list(value)
    if not is_number(value) and len(several) != groups:
        raise ArgumentError(
            f"`{argument}` must be one number, or one for each of {groups} parameter groups; "
            f"got {len(several)}."
        )
    for bound in several:
        if not is_number(bound) or not float(bound) >= 0:
            raise ArgumentError(f"`{argument}` must be a number >= 0; got {bound!r}.")
    return [float(bound) for bound in several]


def _write(group: dict[str, Any], rate: float) -> float:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
        return float(group["lr"])
    group["lr"] = rate
    return rate
