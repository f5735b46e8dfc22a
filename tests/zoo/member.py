"""A member of the zoo: a small foreign model that is measured rightly, or refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import lossatlas as la

Plain = Callable[[nn.Module, Any], tuple[Tensor, float]]

# Relative tolerances of (value, gradient, product of the Hessian), by the dtype of the weights.
TOLERANCES = {
    torch.float64: (1e-9, 1e-8, 1e-4),
    torch.float32: (2e-5, 1e-3, 1e-2),
    torch.bfloat16: (2e-2, 8e-2, 0.3),
    torch.float16: (4e-3, 2e-2, 0.1),
}


@dataclass(frozen=True)
class Case:
    """What a user would hand over, and the same loss written plainly for one batch.

    `plain(model, batch)` gives (sum of the loss over the units of the batch, what they weigh);
    the truth is the sum of the sums over the sum of the weights. `bare`: the same model for the
    truth, where that of the user cannot be moved by plain arithmetic.
    """

    model: nn.Module
    loss: Any
    batches: list
    plain: Plain
    options: Mapping[str, Any] = field(default_factory=dict)
    bare: nn.Module | None = None

    def objective(self) -> la.Objective:
        return la.Objective(self.model, self.loss, self.batches, **self.options)


@dataclass(frozen=True)
class Member:
    """One row of the registry.

    `stage` is where the library must refuse: "construction", "map", "gradient", "curvature";
    None where every number must be right. `double`: whether the truth is computed in float64;
    `step`: of its differences, as a share of the weights;
    `unused`: parameters on which the loss does not depend, which the library must list.
    """

    name: str
    family: str
    make: Callable[[], Case]
    needs: tuple[str, ...] = ()
    stage: str | None = None
    match: str = ""
    double: bool = True
    step: float | None = None
    unused: tuple[str, ...] = ()
    tolerances: tuple[float, float, float] | None = None

    def build(self) -> Case:
        """The same case at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make()


MEMBERS: dict[str, Member] = {}


def right(family: str, **options: Any) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """The value, the map, the gradient and the product must be right."""
    return _enter(family, None, "", options)


def refused(
    family: str, stage: str, match: str, **options: Any
) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Numbers before `stage` are right; there an error is raised whose message matches."""
    return _enter(family, stage, match, options)


def _enter(family: str, stage: str | None, match: str, options: dict[str, Any]):
    def enter(make: Callable[[], Case]) -> Callable[[], Case]:
        name = make.__name__
        # pytest looks for doctests in this folder and imports its files by a second name.
        before = MEMBERS.get(name)
        assert before is None or _file(before.make) == _file(make), name
        MEMBERS[name] = Member(name, family, make, stage=stage, match=match, **options)
        return make

    return enter


def _file(make: Callable[[], Case]) -> str:
    return make.__code__.co_filename


def mean_over(count: Callable[[Any], float], loss: Callable[[nn.Module, Any], Tensor]) -> Plain:
    """The plain loss of a function that gives the mean of `count(batch)` units."""

    def plain(model: nn.Module, batch: Any) -> tuple[Tensor, float]:
        return loss(model, batch) * count(batch), float(count(batch))

    return plain
