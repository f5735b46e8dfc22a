"""What rounding does to the numbers that the checks compare: one model for all of them.

A number near zero that is a difference of larger ones rounds as they do. So it is with the
cross-entropy of a network that fits its data: its losses are differences of outputs, and its
gradients are made of probabilities less labels, both of order one.
"""

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lossatlas.objective.batches import batch_size, map_tensors, tensors
from lossatlas.rng import generator

if TYPE_CHECKING:
    from lossatlas.objective.lines import Line

# Roundings of a value, in either end of a difference, that add up.
_SEVERAL = 8


class Rounding:
    """How coarse what is compared along a line is.

    Args:
        line: along which.
        epsilon: relative rounding of the coarsest type in which the model computes.
    """

    def __init__(self, line: "Line", epsilon: float) -> None:
        # Its line holds it: a cycle would keep directions, as large as the weights, alive.
        self._line: Line = weakref.proxy(line)
        self._epsilon = epsilon

    def of_difference(self, step: float) -> float:
        """What rounding of values of order one leaves in a central difference."""
        return _SEVERAL * self._epsilon / (step * self._line.length)

    @property
    def reason(self) -> str:
        """Why something could not be checked."""
        return too_coarse(self._epsilon)

    @cached_property
    def outputs(self) -> float:
        """The largest number that the model gives out on the batch."""
        with self._watched() as seen, torch.no_grad():
            self._line.mean()
        # Whatever ran last, where a loss does not call the model itself.
        last = seen.outputs or seen.last
        return max((float(v.detach().abs().max()) for v in last if v.numel()), default=0.0)

    @cached_property
    def losses(self) -> float:
        """As what number a loss near zero rounds: as outputs do, by the criterion's slope."""
        if self._line.objective.placed is not None:
            return self.outputs
        return self.outputs * min(1.0, self.criterion * math.sqrt(self._examples))

    @cached_property
    def criterion(self) -> float:
        """Length of the criterion's gradient in the outputs, where nothing cancels in it.

        It is that at outputs of zero, or that of a mean of terms with slopes of order one
        where this is smaller (or where the criterion is not finite at zero).
        """
        return self._line.at(0.0, lambda _: self._slope())

    @cached_property
    def gradient(self) -> float:
        """Length of the gradient where nothing cancels in that of the criterion."""
        scale = self.criterion
        return scale * self._line.at(0.0, self._pulled)

    @property
    def _examples(self) -> int:
        return max(batch_size(self._line.batch), 1)

    def _pulled(self, leaves: dict[str, Tensor]) -> float:
        # J^T u, u random and of length one.
        with self._watched() as seen:
            self._line.mean()
        live = [value for value in seen.outputs if value.requires_grad]
        if not live:
            return 0.0
        drawn = [_random(place, value) for place, value in enumerate(live)]
        parts = torch.autograd.grad(live, list(leaves.values()), drawn, allow_unused=True)
        return _length([v for v in parts if v is not None]) / (_length(drawn) or 1.0)

    def _slope(self) -> float:
        with self._watched(zero=True) as seen:
            try:
                mean = self._line.mean()
                slopes = torch.autograd.grad(mean, seen.outputs, allow_unused=True)
                length = _length([v for v in slopes if v is not None])
            # Whatever a criterion of others does with outputs of zero.
            except Exception:
                length = 0.0
        most = max(1.0, seen.size) / math.sqrt(self._examples)
        return min(length, most) if length > 0 and math.isfinite(length) else most

    @contextmanager
    def _watched(self, *, zero: bool = False) -> Iterator["_Seen"]:
        seen, model = _Seen(), self._line.objective.model

        def note(module: nn.Module, _inputs: object, output: Any) -> Any:
            outputs = [v for v in tensors(output) if v.is_floating_point()]
            seen.last = outputs or seen.last
            if module is not model:
                return output
            if zero:
                numbers = sum(v.numel() for v in outputs)
                seen.size = max(seen.size, _length(outputs) / math.sqrt(numbers or 1))
                output = map_tensors(_zero, output)
                outputs = [v for v in tensors(output) if v.requires_grad]
            seen.outputs += outputs
            return output

        handle = register_module_forward_hook(note)
        try:
            yield seen
        finally:
            handle.remove()


@dataclass
class _Seen:
    # What a model gave out, what any module gave out last, and the root mean square of what
    # zeros stand for.
    outputs: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    size: float = 0.0


def _zero(value: Tensor) -> Tensor:
    if not (value.is_floating_point() and value.requires_grad):
        return value
    return torch.zeros_like(value).requires_grad_()


def _random(place: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=generator(place, "rounding")).to(like)


def _length(values: Sequence[Tensor]) -> float:
    return math.hypot(
        *(float(torch.linalg.vector_norm(v.detach(), dtype=torch.float64)) for v in values)
    )


def too_coarse(epsilon: float) -> str:
    """Why something could not be checked in a type of this relative rounding."""
    return f"rounding of {_kind(epsilon)} is larger than what is compared"


def _kind(epsilon: float) -> str:
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        if torch.finfo(kind).eps == epsilon:
            return str(kind).removeprefix("torch.")
    return "a type below half precision"
