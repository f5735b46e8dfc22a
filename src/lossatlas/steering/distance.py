"""How far the weights have come, and how long the steps were that took them there."""

import math
from typing import Any

import torch
from torch import Tensor

# Coordinates watched of each tensor; the lengths of large tensors are extrapolated from them.
_WATCHED = 512


class DistanceTracker:
    """Follows some coordinates of all weights over a training.

    Lengths are Euclidean, over all weights. A stride is a step divided by the scale of the
    rate that made it: what a step at scale 1 would have been.

    Args:
        optimizer: its weights are followed, those of later groups from then on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._start: list[Tensor] = []
        self._last: list[Tensor] = []
        self._reach, self._strides = 0.0, 0.0
        self._sums: list[Tensor] = []
        self._distance: Tensor | None = None

    def opening(self) -> tuple[float, float]:
        """Before the first step: the length of the weights, and of the stride to come."""
        size = stride = 0.0
        for group in self._optimizer.param_groups:
            normalized = "betas" in group
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                size += float(weight.detach().float().square().sum())
                length = float(weight.grad.float().square().sum())
                moved = weight.numel() if normalized else length
                stride += float(group.get("initial_lr", group["lr"])) ** 2 * moved
        return math.sqrt(size), math.sqrt(stride)

    def track(self, scales: list[float]) -> None:
        """Take a step in; nothing is synchronized with a device."""
        if not self._start:
            return self.begin()
        squares, far = [], []
        for index, (weight, share) in enumerate(self._weights()):
            here = _sample(weight)
            if index == len(self._start):
                self._start.append(here)
                self._last.append(here)
                continue
            scale = scales[self._group(index)]
            if scale > 0:
                squares.append((here - self._last[index]).square().sum() * (share / scale**2))
            far.append((here - self._start[index]).square().sum() * share)
            self._last[index] = here
        if squares:
            self._sums.append(torch.stack(squares).sum())
        distance = torch.stack(far).sum()
        known = self._distance
        self._distance = distance if known is None else torch.maximum(known, distance)
        return None

    def begin(self) -> None:
        """Note where the weights are, before the first step."""
        self._start = [_sample(weight) for weight, _ in self._weights()]
        self._last = list(self._start)

    def read(self) -> tuple[float, float]:
        """The reach and the length of all strides so far."""
        self._strides += sum(float(square) for square in self._sums)
        self._sums = []
        if self._distance is not None:
            self._reach = max(self._reach, math.sqrt(float(self._distance)))
            self._distance = None
        return self._reach, math.sqrt(self._strides)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        reach, _ = self.read()
        return {
            "start": list(self._start),
            "last": list(self._last),
            "reach": reach,
            "strides": self._strides,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._start, self._last = list(state["start"]), list(state["last"])
        self._reach, self._strides = state["reach"], state["strides"]

    def _weights(self) -> list[tuple[Tensor, float]]:
        found = []
        for group in self._optimizer.param_groups:
            for weight in group["params"]:
                step = _stride(weight)
                watched = -(-weight.numel() // step)
                found.append((weight, weight.numel() / max(watched, 1)))
        return found

    def _group(self, index: int) -> int:
        for number, group in enumerate(self._optimizer.param_groups):
            index -= len(group["params"])
            if index < 0:
                return number
        return number


def _stride(weight: Tensor) -> int:
    step = max(weight.numel() // _WATCHED, 1)
    # An odd step does not stay within one column of a matrix whose width is even.
    return step | 1


def _sample(weight: Tensor) -> Tensor:
    return weight.detach().reshape(-1)[:: _stride(weight)].float().clone()
