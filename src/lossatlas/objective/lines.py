"""Values and gradients of a few examples along random lines through the weights."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lossatlas.linalg.params import Params
from lossatlas.objective.batches import Batch, batch_size, cut, tensors
from lossatlas.objective.in_place import batch_gradient
from lossatlas.objective.names import padding_rows
from lossatlas.objective.rounding import Rounding
from lossatlas.rng import generator

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

T = TypeVar("T")

# Examples of a batch that the checks run on: the fault is in the code, not in the data. Few
# examples cross few kinks, and many of them would look like curvature.
FEW = 8
# Lines along which a gradient is projected while it is there.
_PROJECTED = 2
# Points at which a derivative is taken for its mean across kinks.
_PARTS = 16


class Lines:
    """Random lines through the weights, which checks that are made together share.

    Args:
        objective: what is checked.

    Attributes:
        slopes: number of a line -> component of the gradient at the weights along it.
        usual: what such a component is about, the root mean square over directions.
        size: length of that gradient.
        agreed: the step at which values and a gradient last agreed; None before.
    """

    def __init__(self, objective: "Objective") -> None:
        self.objective = objective
        self.here = {name: value.detach() for name, value in objective.params.items()}
        self.scales = _scales(self.here)
        self.length = _norm(self.here.values()) or 1.0
        if objective.few is None:
            objective.few = few_examples(objective, self.here)
        self.slopes: dict[int, float] = {}
        self.usual = self.size = math.nan
        self.agreed: float | None = None
        self._lines: dict[int, Line] = {}

    def __getitem__(self, number: int) -> "Line":
        if number not in self._lines:
            self._lines[number] = Line(self, number)
        return self._lines[number]

    def forget(self) -> None:
        """Let directions go at once: they and their lines hold each other, as does `here`."""
        self._lines.clear()

    def note(self, gradient: Sequence[Tensor | None], number: int = 0) -> None:
        """Keep what is wanted of the gradient at the weights, which itself is not kept."""
        for place in {number, *range(_PROJECTED)}:
            self.slopes[place] = along(gradient, self[place].direction.values())
        self.usual = self._usual(gradient)
        self.size = _norm(part for part in gradient if part is not None)

    def _usual(self, gradient: Sequence[Tensor | None]) -> float:
        scales = list(self.scales.values())
        parts = [
            0.0 if part is None else (scale * _norm([part])) ** 2
            for part, scale in zip(gradient, scales, strict=True)
        ]
        lengths = [
            value.numel() * scale**2
            for value, scale in zip(self.here.values(), scales, strict=True)
        ]
        return math.sqrt(sum(parts) / sum(lengths))


@contextmanager
def shared_lines(objective: "Objective") -> Iterator[Lines]:
    """Lines that every check within shares; they hold for the present weights."""
    before = objective.lines
    lines = before or Lines(objective)
    objective.lines = lines
    try:
        yield lines
    finally:
        objective.lines = before
        if before is None:
            lines.forget()


class Line:
    """One batch along one random direction: values, gradients and their central differences.

    Args:
        lines: what it shares with others.
        number: which random direction.
    """

    def __init__(self, lines: Lines, number: int) -> None:
        self.lines, self.objective, self.number = lines, lines.objective, number
        self.here, self.length = lines.here, lines.length
        self.direction = _unit(self.here, lines.scales, number)
        for name, row in padding_rows(self.objective.model).items():
            if name in self.direction:
                self.direction[name][row] = 0.0
        assert self.objective.few is not None
        self.batch, self._epsilon = self.objective.few
        self.rounding = Rounding(self, self._epsilon)
        self._values: dict[float, float] = {}

    def point(self, step: float) -> dict[str, Tensor]:
        """The weights at a step along the direction, in units of their length."""
        alpha = step * self.length
        return {n: v + alpha * self.direction[n] for n, v in self.here.items()}

    def run(self, call: Callable[[], T]) -> T:
        """Run a function in one session, with statistics estimated once, at the weights."""

        def prepared() -> T:
            self.objective.prepare()
            return call()

        with self.objective.session():
            return self.objective.swapped(self.here, prepared)

    def value(self, step: float) -> float:
        """The mean loss of the batch."""
        if step not in self._values:
            with torch.no_grad():
                self._values[step] = float(
                    self.objective.swapped(self.point(step), self.mean).detach()
                )
        return self._values[step]

    def at(self, step: float, call: Callable[[dict[str, Tensor]], T]) -> T:
        """What a function gives of leaves at a step, which the model holds meanwhile."""
        point, own = self.point(step), self.objective.own_leaves
        if own is None:
            point = {name: v.detach().requires_grad_() for name, v in point.items()}
        with torch.enable_grad():
            return self.objective.swapped(point, lambda: call(own or point))

    def gradient(self, step: float = 0.0) -> list[Tensor | None]:
        """The gradient of that mean; None where there is none."""
        if self.objective.placed is not None:
            return self._gradient_in_place(step)

        def backward(leaves: dict[str, Tensor]) -> list[Tensor | None]:
            mean = self.mean()
            # Its value comes with it.
            self._values[step] = float(mean.detach())
            if not mean.requires_grad:
                return [None] * len(leaves)
            return list(torch.autograd.grad(mean, list(leaves.values()), allow_unused=True))

        return self.at(step, backward)

    def _gradient_in_place(self, step: float) -> list[Tensor | None]:
        objective = self.objective

        def backward() -> list[Tensor | None]:
            parts, weight = batch_gradient(objective, self.batch)
            # A sharded module adds up what its processes give, here the same batch on each.
            summed = objective.placed is not None and objective.placed.sums
            ranks = objective.collective_ranks if summed else None
            total = (weight or 1.0) * (1 if ranks is None else ranks.size)
            return [None if part is None else part / total for part in parts.values()]

        with torch.enable_grad():
            return objective.swapped(self.point(step), backward)

    def name(self, place: int) -> str:
        """The name of a parameter by its place."""
        return self.objective.names[place]

    @property
    def steps(self) -> tuple[float, ...]:
        """Steps in units of the weights' length, from the best to the sides."""
        fine = self._epsilon < 1e-12
        return (1e-3, 1e-4, 1e-5, 3e-3, 1e-2) if fine else (1e-3, 3e-4, 1e-4, 3e-3, 1e-2)

    def mean(self) -> Tensor:
        """The mean loss of the batch where the model stands."""
        return self.objective.total(self.batch).mean


def along(gradient: Sequence[Tensor | None], vectors: Iterable[Tensor]) -> float:
    """The component of a gradient along a direction."""
    return sum(
        float((part * vector).sum(dtype=torch.float64))
        for part, vector in zip(gradient, vectors, strict=True)
        if part is not None
    )


def midpoints(step: float) -> list[float]:
    """Centers of equal parts of the interval from one step back to one step ahead."""
    return [step * ((2 * part + 1) / _PARTS - 1) for part in range(_PARTS)]


def _norm(values: Iterable[Tensor]) -> float:
    return math.hypot(
        *(float(torch.linalg.vector_norm(v.detach(), dtype=torch.float64)) for v in values)
    )


def _unit(like: Params, scales: Mapping[str, float], number: int) -> dict[str, Tensor]:
    drawn = {
        name: torch.randn(value.shape, generator=generator(number, "line", name)).to(value)
        for name, value in like.items()
    }
    length = math.hypot(*(scales[name] * _norm([value]) for name, value in drawn.items()))
    return {name: value.mul_(scales[name] / length) for name, value in drawn.items()}


def _scales(like: Params) -> dict[str, float]:
    # Each tensor moves by the same share of itself; those that are zero by that of all others.
    sizes = {n: _norm([v]) / math.sqrt(max(v.numel(), 1)) for n, v in like.items()}
    numbers = sum(value.numel() for value in like.values())
    total = sum(size**2 * like[name].numel() for name, size in sizes.items())
    typical = math.sqrt(total / numbers) or 1.0
    return {name: size or typical for name, size in sizes.items()}


@contextmanager
def noted_kinds(kinds: set[torch.dtype]) -> Iterator[None]:
    """Note in which types modules give out numbers: autocast computes in half precision."""

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        kinds.update(v.dtype for v in tensors(output) if v.is_floating_point())

    handle = register_module_forward_hook(note)
    try:
        with warnings.catch_warnings():
            # A compiled model says that it calls global hooks twice; twice does no harm.
            warnings.filterwarnings("ignore", message="Using `torch.compile")
            yield
    finally:
        handle.remove()


def few_examples(objective: "Objective", params: Params) -> tuple[Batch, float]:
    """The first examples of the first batch, or all of it where it cannot be cut."""
    kinds = {value.dtype for value in params.values()}

    def value(batch: Batch) -> float:
        with noted_kinds(kinds), torch.no_grad(), objective.session():
            mean = objective.swapped(params, lambda: objective.total(batch).mean)
        return float(mean.detach())

    batch = objective.first_batch()
    if batch_size(batch) > FEW:
        part = cut(batch, 0, FEW)
        try:
            finite = math.isfinite(value(part))
        except Exception:
            # Whatever a loss does with a part of a batch that it cannot serve.
            finite = False
        if finite:
            return part, coarsest(kinds)
    if not objective.kinds:
        value(batch)
    return batch, coarsest(kinds | objective.kinds)


def coarsest(kinds: Iterable[torch.dtype]) -> float:
    """The rounding of the coarsest of some types."""
    return max(torch.finfo(kind).eps for kind in kinds)


def coarse_rounding(objective: "Objective") -> float:
    """How far half precision puts eigenvalues off, as a share of the largest one."""
    rounding = coarsest(value.dtype for value in objective.params.values())
    if objective.few is not None:
        rounding = max(rounding, objective.few[1])
    return rounding if rounding > torch.finfo(torch.float32).eps else 0.0
