"""The loss, its gradient and the Hessian along a direction, by an own loop and own arithmetic.

Every number starts from a model that is built anew; weights are written in place, derivatives
are plain autograd of the whole sum, and second derivatives are differences of gradients.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.member import Member

Shift = Mapping[str, Tensor]


def double(batch: Any) -> Any:
    """The batch with floating-point tensors in float64."""
    if isinstance(batch, torch.nn.utils.rnn.PackedSequence):
        return batch.double()
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: double(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(double(value) for value in batch)
    if dataclasses.is_dataclass(batch):
        names = [f.name for f in dataclasses.fields(batch)]
        return dataclasses.replace(batch, **{n: double(getattr(batch, n)) for n in names})
    if hasattr(batch, "apply") and hasattr(batch, "num_graphs"):
        return batch.clone().apply(double)
    if hasattr(batch, "batch_size") and hasattr(batch, "apply"):
        return batch.apply(double)
    return batch


class Truth:
    """Independent numbers of a member.

    Args:
        member: which.
        names: the parameters that move.
    """

    def __init__(self, member: Member, names: tuple[str, ...]) -> None:
        self.member, self.names = member, names
        self.origin = {k: v.detach().clone() for k, v in self._fresh()[1].items()}

    def _fresh(self, shift: Shift | None = None):
        case = self.member.build()
        if case.bare is not None:
            case = dataclasses.replace(case, model=case.bare)
        if self.member.double:
            case.model.double()
        case.model.eval()
        # First names of tied weights, as users see them.
        every = dict(case.model.named_parameters())
        moved = {name: every[name] for name in self.names}
        with torch.no_grad():
            for name, value in (shift or {}).items():
                moved[name].add_(value.to(moved[name].dtype))
        return case, moved

    def _loss(self, case: Any) -> Tensor:
        total, weight = torch.zeros((), dtype=torch.float64), 0.0
        for batch in case.batches:
            given = double(batch) if self.member.double else batch
            part, share = case.plain(case.model, given)
            total, weight = total + part.double(), weight + float(share)
        return total / weight

    def value(self, shift: Shift | None = None) -> float:
        return float(self._loss(self._fresh(shift)[0]).detach())

    def gradient(self, shift: Shift | None = None) -> dict[str, Tensor]:
        case, moved = self._fresh(shift)
        for value in moved.values():
            value.requires_grad_()
        parts = torch.autograd.grad(self._loss(case), list(moved.values()), allow_unused=True)
        return {
            name: torch.zeros_like(moved[name]).double() if part is None else part.double()
            for name, part in zip(moved, parts, strict=True)
        }

    def slope(self, direction: Shift, step: float) -> float:
        ahead, behind = (
            self.value({k: s * step * v for k, v in direction.items()}) for s in (1, -1)
        )
        return (ahead - behind) / (2 * step)

    def product(self, direction: Shift, step: float) -> dict[str, Tensor]:
        ahead, behind = (
            self.gradient({k: s * step * v for k, v in direction.items()}) for s in (1, -1)
        )
        return {k: (ahead[k] - behind[k]) / (2 * step) for k in direction}
