"""Does what is differentiated belong to what is evaluated? Checks of values and gradients.

A loss is code of others. Three faults make it give wrong numbers without an error: parameters
that are swapped in are not those that the forward pass reads, gradients that stop on the way,
and gradients that are not those of the loss. Each check compares two ways to one number.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lossatlas.algebra.params import Params
from lossatlas.errors import AtlasError, DerivativeError, DerivativeWarning, ModelError
from lossatlas.guard import preserved_rng
from lossatlas.objective.batches import Batch, batch_size, cut, tensors
from lossatlas.objective.firstlook import perturbed
from lossatlas.objective.foreign import named_failure
from lossatlas.objective.remedies import unmoved_remedy
from lossatlas.rng import generator

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

T = TypeVar("T")

PASSED, FAILED, UNKNOWN = "passed", "failed", "could not be checked"
# Two ways to one number agree where they are this close to each other.
AGREE = 1e-2
# Differences have settled where neighbouring steps are this close to each other.
SETTLED = 2e-2
# What has settled disagrees with a derivative beyond this many times its own change.
CLEARLY = 10.0
# Examples of a batch that the checks run on: the fault is in the code, not in the data. Few
# examples cross few kinks, and many of them would look like curvature.
FEW = 8
# What parameters of a loss are called here; no parameter has a colon in its name.
_LOSS = "loss: "
# Directions along which a gradient is compared where the first leaves a doubt.
_DIRECTIONS = 4
# Gaps that rounding of a gradient may leave.
_CLOSE = 2e-3
# A gradient that is wrong in some layers agrees along one direction in a hundred, by chance.
_ENOUGH = 2
# Batches that are looked at for parameters that the first one does not reach.
_BATCHES = 3


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: "reach", "state", "gradient", "hessian" or "outputs".
        status: "passed", "failed" or "could not be checked".
        figure: relative disagreement of the two ways; NaN where there is none.
        sentence: what was compared, or why it could not be.
    """

    name: str
    status: str
    figure: float = math.nan
    sentence: str = ""

    @property
    def ok(self) -> bool:
        """Whether it did not fail; one that could not be made counts as that."""
        return self.status != FAILED

    def __str__(self) -> str:
        figure = f" to {self.figure:.1g}" if math.isfinite(self.figure) else ""
        return f"{self.name}: {self.status}{figure}; {self.sentence}"


@dataclass(frozen=True)
class CheckReport:
    """All checks of an objective.

    Attributes:
        checks: one each, in the order in which they were made.
        unused: parameters that move and on which the loss does not depend.
    """

    checks: tuple[Check, ...]
    unused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed; one that could not be made counts as neither."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        rows = [("check", "result", "figure", "")]
        for check in self.checks:
            figure = f"{check.figure:.1e}" if math.isfinite(check.figure) else "-"
            rows.append((check.name, check.status, figure, check.sentence))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(
                [*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3]]
            )
            for row in rows
        ]
        if self.unused:
            lines.append(f"the loss does not depend on: {', '.join(self.unused)}")
        return "\n".join(line.rstrip() for line in lines)


# Reach


@dataclass(frozen=True)
class Reach:
    """How the loss depends on the parameters that move.

    Attributes:
        check: the verdict.
        unused: parameters that change nothing in the batches that were looked at.
        cut: parameters that change the loss and get no gradient, although others do.
    """

    check: Check
    unused: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def check_reach(objective: "Objective") -> Reach:
    """Require that the loss reads the parameters that are swapped in, and no others.

    One gradient of one batch, in the swapped parameters and in the model's own; what gets none
    is looked for in other batches, and perturbed.

    Args:
        objective: under construction.

    Returns:
        What was found.

    Raises:
        ModelError: the loss reads the model's own parameters, or moves with none that move.
    """
    why = "the loss has no gradient"
    with preserved_rng():
        for index, batch in enumerate(objective.each_batch()):
            try:
                moved, own = _gradients_of_both(objective, batch)
            except (MemoryError, RuntimeError, AtlasError) as error:
                # Maps need no gradient: where none can be had, values tell.
                why = f"no gradient could be taken ({type(error).__name__})"
                break
            if own and not moved and own[0].startswith(_LOSS):
                raise ModelError(_nothing_moves(objective))
            if own:
                raise ModelError(_reads_its_own(objective, own))
            if moved:
                silent = [name for name in objective.names if name not in moved]
                return _sorted_out(objective, index, silent)
        return _reach_of_values(objective, why)


def _of_the_loss(objective: "Objective") -> dict[str, Tensor]:
    # Parameters that the loss holds (prototypes, a temperature), where all are to move.
    every = {n for n, value in objective.model.named_parameters() if value.requires_grad}
    if not every <= set(objective.names):
        return {}
    return {
        f"{_LOSS}{type(module).__name__}.{name}": value
        for module in objective.loss_modules
        for name, value in module.named_parameters()
        if value.requires_grad
    }


def _reads_its_own(objective: "Objective", own: Sequence[str]) -> str:
    held = [name.removeprefix(_LOSS) for name in own if name.startswith(_LOSS)]
    if held:
        return (
            f"the loss has parameters of its own ('{held[0]}'{_more(held)}) that would not "
            "move; let one module hold the model and the loss's module, and be the model; or "
            "freeze them with requires_grad_(False) to measure the model's weights alone."
        )
    return (
        f"the loss reads parameters of the model itself ('{own[0]}'{_more(own)}), past those "
        "that are put into the model in their place, so part of them never moves: "
        f"{unmoved_remedy(objective.model, own)}"
    )


def _gradients_of_both(objective: "Objective", batch: Batch) -> tuple[set[str], list[str]]:
    # Names that get a gradient where they are swapped in, and where they are the model's own.
    leaves = {name: value.requires_grad_() for name, value in objective.params.items()}
    every = dict(objective.model.named_parameters())
    own: dict[str, Tensor] = {n: every[n] for n in objective.names if every[n].requires_grad}
    own |= _of_the_loss(objective)

    def gradients() -> tuple[set[str], list[str]]:
        mean = batch_mean(objective, batch)
        if not mean.requires_grad:
            return set(), []
        points = [*leaves.values(), *own.values()]
        with named_failure("the gradient of `loss`", "look at its backward pass."):
            parts = torch.autograd.grad(mean, points, allow_unused=True)
        first = {n for n, part in zip(leaves, parts, strict=False) if part is not None}
        rest = parts[len(leaves) :]
        return first, [n for n, part in zip(own, rest, strict=True) if part is not None]

    with torch.enable_grad(), objective.session():
        return objective.swapped(leaves, gradients)


def _reach_of_values(objective: "Objective", why: str) -> Reach:
    known = True
    for batch in objective.each_batch():
        values = _Values(objective, batch)
        known &= math.isfinite(values.base)
        if math.isfinite(values.base) and values.move(objective.names, outputs=True):
            sentence = f"{why}; it moves with the parameters"
            return Reach(Check("reach", PASSED, sentence=sentence))
    if known:
        raise ModelError(_nothing_moves(objective))
    return Reach(Check("reach", UNKNOWN, sentence=f"{why}, and the loss is not finite"))


def _sorted_out(objective: "Objective", first: int, silent: Sequence[str]) -> Reach:
    # What got no gradient in one batch: reached by others (experts), cut off, or unused.
    if not silent:
        return Reach(Check("reach", PASSED, sentence="every parameter gets a gradient"))
    looked = list(islice(objective.each_batch(), first, first + _BATCHES))
    for batch in looked[1:]:
        reached, _ = _gradients_of_both(objective, batch)
        silent = [name for name in silent if name not in reached]
    off: list[str] = []
    for batch in looked if silent else ():
        values = _Values(objective, batch)
        if math.isfinite(values.base):
            off += values.movers([name for name in silent if name not in off])
    unused = tuple(name for name in silent if name not in off)
    if off:
        sentence = f"'{off[0]}'{_more(off)} moves the loss and gets no gradient"
        return Reach(Check("reach", FAILED, sentence=sentence), unused, tuple(off))
    used = len(objective.names) - len(unused)
    sentence = f"{used} of {len(objective.names)} parameters move the loss"
    return Reach(Check("reach", PASSED, sentence=sentence), unused)


def _nothing_moves(objective: "Objective") -> str:
    first = objective.names[0]
    return (
        f"the loss stays the same to the bit when '{first}'{_more(objective.names)} move, so "
        f"nothing can be measured: {unmoved_remedy(objective.model, objective.names)}"
    )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


class _Values:
    """Values of the loss of one batch with some parameters perturbed."""

    def __init__(self, objective: "Objective", batch: Batch) -> None:
        self._objective, self._batch = objective, batch
        self.base, self._outputs = self._at({})

    def move(self, names: Sequence[str], *, outputs: bool = False) -> bool:
        """Whether the loss moves with any of these: by a little, or by a lot.

        Args:
            names: parameters that are perturbed together.
            outputs: whether it is enough that what the model returns moves.

        Returns:
            Yes or no.
        """
        for scale in (0.3, 3.0):
            value, given = self._perturbed(names, scale)
            if _differ(value, self.base) or (outputs and _differ(given, self._outputs)):
                return True
        return False

    def movers(self, names: Sequence[str]) -> list[str]:
        """Those of these that move the loss, by halving.

        Args:
            names: parameters to tell apart.

        Returns:
            Their names.
        """
        if not names or not self.move(names):
            return []
        if len(names) == 1:
            return list(names)
        half = len(names) // 2
        return self.movers(names[:half]) + self.movers(names[half:])

    def _perturbed(self, names: Sequence[str], scale: float) -> tuple[float, float]:
        present = self._objective.params
        return self._at({name: perturbed(name, present[name], scale) for name in names})

    def _at(self, params: Params) -> tuple[float, float]:
        # The loss, and a sum over what the model returns.
        objective, total = self._objective, 0.0

        def note(_model: nn.Module, _inputs: object, output: object) -> None:
            nonlocal total
            total += sum(float(v.double().abs().sum()) for v in tensors(output))

        handle = objective.model.register_forward_hook(note)
        try:
            with torch.no_grad(), objective.session():
                mean = objective.swapped(params, lambda: batch_mean(objective, self._batch))
        finally:
            handle.remove()
        return float(mean), total


def _differ(a: float, b: float) -> bool:
    # The same kernels on the same numbers: beyond a few roundings it is another value.
    return not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def state_check(objective: "Objective") -> Check:
    """What a pass changes in the model, and what becomes of it.

    Args:
        objective: whose first pass has been watched.

    Returns:
        The check; it passes where points do not see what others left.
    """
    volatile = objective.volatile
    if not volatile.names:
        return Check("state", PASSED, sentence="a pass changes nothing in the model")
    what = f"a pass changes '{volatile.names[0]}'{_more(volatile.names)}"
    how = "renewed for every point" if volatile.matters else "which no other point sees"
    return Check("state", PASSED, sentence=f"{what}, {how}")


# Slope


class Line:
    """One batch along one random direction: values, gradients and their central differences.

    Args:
        objective: what is checked.
        params: where; the present weights by default.
        number: which random direction.
    """

    def __init__(
        self, objective: "Objective", params: Params | None = None, number: int = 0
    ) -> None:
        self.objective = objective
        here = objective.params if params is None else params
        self.here = {name: here[name].detach() for name in objective.names}
        length = math.sqrt(sum(float(v.abs().double().square().sum()) for v in here.values()))
        self.length = length or 1.0
        self.scales = _scales(self.here)
        self.direction = _unit(self.here, self.scales, number)
        _still(objective.model, self.direction)
        if objective.few is None:
            self.batch = few_examples(objective, self.here)
            self._epsilon = max(torch.finfo(kind).eps for kind in self._dtypes())
            objective.few = self.batch, self._epsilon
        self.batch, self._epsilon = objective.few

    def point(self, step: float) -> dict[str, Tensor]:
        """The weights at a step along the direction, in units of their length.

        Args:
            step: how far.

        Returns:
            New tensors.
        """
        alpha = step * self.length
        return {n: v + alpha * self.direction[n] for n, v in self.here.items()}

    def usual(self, gradient: Sequence[Tensor | None]) -> float:
        """What the component of a gradient along such a direction is about.

        Args:
            gradient: one tensor a parameter, None where there is none.

        Returns:
            The root mean square over directions.
        """
        scales = list(self.scales.values())
        parts = [
            0.0 if part is None else float((part.double().abs() * scale).square().sum())
            for part, scale in zip(gradient, scales, strict=True)
        ]
        lengths = [
            value.numel() * scale**2
            for value, scale in zip(self.here.values(), scales, strict=True)
        ]
        return math.sqrt(sum(parts) / sum(lengths))

    def run(self, call: Callable[[], T]) -> T:
        """Run a function in one session, with statistics estimated once, at the weights.

        Args:
            call: uses the other methods.

        Returns:
            What it returns.
        """

        def prepared() -> T:
            self.objective.prepare()
            return call()

        with self.objective.session():
            return self.objective.swapped(self.here, prepared)

    def value(self, step: float) -> float:
        """The mean loss of the batch.

        Args:
            step: how far along the direction.

        Returns:
            The mean.
        """
        with torch.no_grad():
            mean = self.objective.swapped(self.point(step), self._mean)
        return float(mean.detach())

    def at(self, step: float, call: Callable[[dict[str, Tensor]], T]) -> T:
        """What a function gives of leaves at a step, which the model holds meanwhile.

        Args:
            step: how far along the direction.
            call: takes name -> leaf; gradients are enabled.

        Returns:
            What it returns.
        """
        leaves = {name: v.detach().requires_grad_() for name, v in self.point(step).items()}
        with torch.enable_grad():
            return self.objective.swapped(leaves, lambda: call(leaves))

    def gradient(self, step: float = 0.0) -> list[Tensor | None]:
        """The gradient of that mean; None where there is none.

        Args:
            step: how far along the direction.

        Returns:
            One a parameter, in order.
        """

        def backward(leaves: dict[str, Tensor]) -> list[Tensor | None]:
            mean = self._mean()
            if not mean.requires_grad:
                return [None] * len(leaves)
            return list(torch.autograd.grad(mean, list(leaves.values()), allow_unused=True))

        return self.at(step, backward)

    def name(self, place: int) -> str:
        """The name of a parameter by its place.

        Args:
            place: in the order of the objective.

        Returns:
            Its name.
        """
        return self.objective.names[place]

    def rounding(self, step: float) -> float:
        """What rounding of a value of order one does to a central difference.

        Args:
            step: of the difference.

        Returns:
            Units of the loss per weight.
        """
        return self._epsilon / (step * self.length)

    @property
    def steps(self) -> tuple[float, ...]:
        """Steps in units of the weights' length, from the best to the sides."""
        fine = self._epsilon < 1e-12
        return (1e-3, 1e-4, 1e-5, 3e-3, 1e-2) if fine else (1e-3, 3e-4, 1e-4, 3e-3, 1e-2)

    def _dtypes(self) -> set[torch.dtype]:
        # Of weights and of what modules give out: autocast computes in half precision.
        seen = {value.dtype for value in self.here.values()}

        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            seen.update(v.dtype for v in tensors(output) if v.is_floating_point())

        handle = register_module_forward_hook(note)
        try:
            with torch.no_grad(), self.objective.session():
                self.objective.swapped(self.here, self._mean)
        finally:
            handle.remove()
        return seen

    def _mean(self) -> Tensor:
        return batch_mean(self.objective, self.batch)


def check_slope(objective: "Objective") -> Check:
    """The gradient along random directions against central differences of values.

    Args:
        objective: what is checked.

    Returns:
        The verdict; it raises nothing.
    """
    every: list[_Gap] = []
    passed: list[Check] = []
    for number in range(_DIRECTIONS):
        line = Line(objective, number=number)
        found, gaps = line.run(lambda line=line: _slope(line))  # type: ignore[misc]
        every += gaps
        if not gaps and found.status != PASSED:
            return found
        passed += [] if gaps else [found]
        if len(passed) == _ENOUGH:
            return max(passed, key=lambda check: check.figure)
    clear = [gap for gap in every if gap.noise <= CLEARLY * AGREE]
    if not clear:
        return Check("gradient", UNKNOWN, sentence="values are rounded too coarsely")
    middle = sorted(clear, key=lambda gap: gap.size)[len(clear) // 2]
    if middle.size <= 5 * AGREE:
        return Check("gradient", UNKNOWN, middle.size, "kinks or rounding within every step")
    return Check("gradient", FAILED, middle.size, f"{middle}: it is a surrogate")


@dataclass(frozen=True)
class _Gap:
    # Of a slope to a difference of values; size and noise are relative.
    size: float
    noise: float
    slope: float
    found: float

    def __str__(self) -> str:
        return (
            f"the gradient is not that of the loss: along a random direction it says "
            f"{self.slope:.4g}, differences of values say {self.found:.4g}"
        )


def _slope(line: Line) -> tuple[Check, list[_Gap]]:
    # Gaps only where the check is open.
    gradient = line.gradient()
    if all(part is None for part in gradient):
        return Check("gradient", UNKNOWN, sentence="the loss has no gradient"), []
    slope = _along(gradient, line.direction.values())
    # What a component along a random direction is about, should this one be small by chance.
    usual = line.usual(gradient)
    gaps: list[_Gap] = []
    for step in line.steps:
        low, high = line.value(-step), line.value(step)
        found = (high - low) / (2 * step * line.length)
        scale = max(abs(slope), abs(found), usual) or 1.0
        noise = 8 * line.rounding(step) * max(abs(low), abs(high)) / scale
        gaps.append(_Gap(abs(found - slope) / scale, noise, slope, found))
        if not math.isfinite(gaps[-1].size):
            return Check("gradient", UNKNOWN, sentence="not finite near the weights"), []
        best = _agreeing(gaps)
        if best is not None:
            sentence = "its slope equals differences of values"
            return Check("gradient", PASSED, best, sentence), []
    return Check("gradient", UNKNOWN), gaps


def _agreeing(gaps: list[_Gap]) -> float | None:
    # At one step, and about so at another: a surrogate may agree at one by chance.
    best = min(gaps, key=lambda gap: gap.size)
    near = sum(gap.size <= 5 * AGREE + gap.noise for gap in gaps)
    within = max(AGREE, min(best.noise, 3 * AGREE))
    fine = best.size <= within and best.noise <= CLEARLY * AGREE and near > 1
    return best.size if fine and not _settled_elsewhere(gaps) else None


def _settled_elsewhere(gaps: list[_Gap]) -> bool:
    # Differences that agree among themselves much better than with the slope.
    for one, other in pairwise(gaps):
        size, noise = min(one.size, other.size), max(one.noise, other.noise)
        off = abs(one.found - one.slope)
        apart = abs(one.found - other.found) / off * one.size if off else math.inf
        if size > max(CLEARLY * (apart + noise), _CLOSE):
            return True
    return False


def ensure_slope(objective: "Objective") -> None:
    """Check the gradient before the first number that rests on it, once an objective.

    Args:
        objective: what is differentiated.

    Raises:
        DerivativeError: some parameters that move the loss get no gradient.
    """
    if objective.derivatives == "unchecked" or not objective.is_checked:
        return
    if objective.cut:
        raise DerivativeError(
            f"'{objective.cut[0]}'{_more(objective.cut)} moves the loss and gets no gradient: "
            "the graph is cut on the way to it (torch.utils.checkpoint needs "
            "use_reentrant=False; .detach(), rounding and argmax cut it too); leave it out "
            "with params=, or map only."
        )
    if "gradient" in objective.checks:
        return
    check = guarded("gradient", check_slope, objective)
    objective.checks["gradient"] = check
    if check.status == FAILED:
        warnings.warn(f"{check.sentence}.", DerivativeWarning, stacklevel=4)


def _along(gradient: Sequence[Tensor | None], vectors: Iterable[Tensor]) -> float:
    # The component along a direction.
    return sum(
        float((part.double() * vector.double()).sum())
        for part, vector in zip(gradient, vectors, strict=True)
        if part is not None
    )


def _unit(like: Params, scales: Mapping[str, float], number: int) -> dict[str, Tensor]:
    drawn = {
        name: scales[name]
        * torch.randn(
            value.shape, generator=generator(number, "line", name), dtype=torch.float64
        )
        for name, value in like.items()
    }
    length = math.sqrt(sum(float(value.square().sum()) for value in drawn.values()))
    return {name: (value / length).to(like[name]) for name, value in drawn.items()}


def _still(model: nn.Module, direction: dict[str, Tensor]) -> None:
    # Torch gives the row at `padding_idx` no gradient, so that it stays in training.
    names = {id(value): name for name, value in model.named_parameters()}
    for module in model.modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or module.padding_idx is None:
            continue
        name = names.get(id(module.weight))
        if name in direction:
            direction[name][module.padding_idx] = 0.0


def _scales(like: Params) -> dict[str, float]:
    # Each tensor moves by the same share of itself; those that are zero by that of all others.
    sizes = {name: float(v.abs().double().square().mean().sqrt()) for name, v in like.items()}
    numbers = sum(value.numel() for value in like.values())
    total = sum(size**2 * like[name].numel() for name, size in sizes.items())
    typical = math.sqrt(total / numbers) or 1.0
    return {name: size or typical for name, size in sizes.items()}


# Shared


def coarse_rounding(objective: "Objective") -> float:
    """How far half precision puts eigenvalues off, as a share of the largest one.

    Args:
        objective: that products are of.

    Returns:
        The rounding unit of bfloat16 or float16 where weights or activations are of it, as far
        as is known; 0 otherwise. Errors of 64 spectra were below 0.42 of it.
    """
    seen = max(torch.finfo(value.dtype).eps for value in objective.params.values())
    rounding = seen if objective.few is None else max(seen, objective.few[1])
    return rounding if rounding > torch.finfo(torch.float32).eps else 0.0


def guarded(name: str, make: Callable[["Objective"], Check], objective: "Objective") -> Check:
    """Make a check; what it meets becomes its sentence.

    Args:
        name: of the check.
        make: makes it.
        objective: what is checked.

    Returns:
        The check. The instrument that needs it meets the same error, and raises it.
    """
    try:
        return make(objective)
    except (AtlasError, RuntimeError, MemoryError) as error:
        return Check(name, UNKNOWN, sentence=str(error).rstrip("."))
    except Exception as error:
        # Whatever code of others raises: the instrument that needs the check says it.
        return Check(name, UNKNOWN, sentence=f"it met {type(error).__name__}")


def batch_mean(objective: "Objective", batch: Batch) -> Tensor:
    """The mean loss of one batch at the weights swapped in.

    Args:
        objective: inside its session.
        batch: on the model's device.

    Returns:
        A scalar with its graph.
    """
    return objective.total(batch).mean


def few_examples(objective: "Objective", params: Params) -> Batch:
    """The first examples of the first batch, or all of it where it cannot be cut.

    Args:
        objective: outside a session.
        params: weights at which the loss of the part must be finite.

    Returns:
        A batch on the model's device.
    """
    batch = objective.first_batch()
    if batch_size(batch) <= FEW:
        return batch
    part = cut(batch, 0, FEW)
    try:
        with torch.no_grad(), objective.session():
            mean = objective.swapped(params, lambda: batch_mean(objective, part))
    except Exception:
        # Whatever a loss does with a part of a batch that it cannot serve: it gets all of it.
        return batch
    return part if bool(torch.isfinite(mean)) else batch
