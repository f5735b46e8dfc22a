"""Is the gradient that of the loss? Its slope against central differences of values."""

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lossatlas.errors import DerivativeError, DerivativeWarning
from lossatlas.objective.lines import Line, Lines, along, midpoints, shared_lines
from lossatlas.objective.rounding import too_coarse
from lossatlas.objective.selfcheck import (
    AGREE,
    CLEARLY,
    FAILED,
    PASSED,
    UNKNOWN,
    Check,
    guarded,
    more,
)

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# Directions along which a gradient is compared where the first leaves a doubt.
_DIRECTIONS = 4
# Gaps that rounding of a gradient may leave.
_CLOSE = 2e-3
# A gradient that is wrong in some layers agrees along one direction in a hundred, by chance.
_ENOUGH = 2
# A slope this far off, as a share, is not that of the loss, or has kinks within its step.
_FAR = 5 * AGREE
_KINKS = "kinks or rounding within every step"


def check_slope(objective: "Objective") -> Check:
    """The gradient along random directions against central differences of values."""
    every: list[_Gap] = []
    passed: list[Check] = []
    with shared_lines(objective) as lines:
        for number in range(_DIRECTIONS):
            check, gaps = _looked_at(lines, number, steps=1 if passed else 2)
            every += gaps
            if not gaps and check.status != PASSED:
                return check
            passed += [] if gaps else [check]
            if len(passed) == _ENOUGH:
                return max(passed, key=lambda check: check.figure)
    clear = _exact(objective, every)
    if not clear:
        return _uncheckable(objective)
    middle = sorted(clear, key=lambda gap: gap.size)[len(clear) // 2]
    if middle.size <= _FAR:
        return Check("gradient", UNKNOWN, middle.size, _KINKS)
    if _stationary(every):
        sentence = (
            "the gradient is zero, and differences of values fall to zero with their step"
        )
        return Check("gradient", UNKNOWN, sentence=sentence)
    return _integrated(objective, clear, middle)


def _exact(objective: "Objective", gaps: list["_Gap"]) -> list["_Gap"]:
    limit = CLEARLY * AGREE
    if not any(gap.noise <= limit for gap in gaps):
        return []
    with shared_lines(objective) as lines:
        losses = lines[0].run(lambda: lines[0].rounding.losses)
    return [gap for gap in gaps if max(gap.noise, gap.rounding * losses) <= limit]


def _uncheckable(objective: "Objective") -> Check:
    assert objective.few is not None
    return Check("gradient", UNKNOWN, sentence=too_coarse(objective.few[1]))


def _integrated(objective: "Objective", gaps: list["_Gap"], middle: "_Gap") -> Check:
    # The integral of slopes between two points is the difference of values there, whatever
    # kinks lie between them; jumps of a loss under a surrogate break it.
    best = {gap.number: gap for gap in sorted(gaps, key=_suitable, reverse=True)}
    worst = sorted(best.values(), key=lambda gap: -gap.size)[:_ENOUGH]
    with shared_lines(objective) as lines:
        integrals = [_integral(lines[gap.number], gap, lines.usual) for gap in worst]
    if any(size > max(_FAR + gap.noise, 2 * bound) for gap, size, bound in integrals):
        return Check("gradient", FAILED, middle.size, f"{middle}: it is a surrogate")
    size = max(size for _, size, _ in integrals)
    if size > AGREE:
        return Check("gradient", UNKNOWN, size, _KINKS)
    sentence = "the integral of its slope across kinks equals differences of values"
    return Check("gradient", PASSED, size, sentence)


def _suitable(gap: "_Gap") -> tuple[bool, float]:
    # The finest step among those that are exact enough, or else the most exact one.
    return (gap.noise > AGREE, gap.step if gap.noise <= AGREE else gap.noise)


def _integral(line: Line, gap: "_Gap", usual: float) -> tuple["_Gap", float, float]:
    # How far the mean slope within a step is from the difference of values, and how far the
    # mean over points may be from that over the interval: half of what changes between them.
    direction = list(line.direction.values())

    def mean() -> tuple[float, float]:
        slopes = [along(line.gradient(step), direction) for step in midpoints(gap.step)]
        changes = math.fsum(abs(a - b) for a, b in pairwise(slopes))
        return math.fsum(slopes) / len(slopes), changes / (2 * len(slopes))

    slope, bound = line.run(mean)
    scale = max(abs(slope), abs(gap.found), usual) or 1.0
    return gap, abs(gap.found - slope) / scale, bound / scale


def _stationary(gaps: list["_Gap"]) -> bool:
    # At a minimum a central difference is of the order of its step squared, and no slope.
    slopes = [abs(gap.found) for gap in gaps]
    return not any(gap.slope for gap in gaps) and min(slopes) < 1e-2 * max(slopes)


@dataclass(frozen=True)
class _Gap:
    # Of a slope to a difference of values; size and noise are relative, and so is what the
    # rounding of values of order one would be. The value is the larger of both ends.
    size: float
    noise: float
    rounding: float
    value: float
    slope: float
    found: float
    step: float
    number: int

    def __str__(self) -> str:
        return (
            f"the gradient is not that of the loss: along a random direction it says "
            f"{self.slope:.4g}, differences of values say {self.found:.4g}"
        )


def _looked_at(lines: Lines, number: int, *, steps: int) -> tuple[Check, list[_Gap]]:
    # Gaps only where the check is open.
    line = lines[number]

    def look() -> tuple[Check, list[_Gap]]:
        if number not in lines.slopes:
            gradient = line.gradient()
            if all(part is None for part in gradient):
                return Check("gradient", UNKNOWN, sentence="the loss has no gradient"), []
            lines.note(gradient, number)
        # What a component is about, should this one be small by chance.
        return _slope(line, lines.slopes[number], lines.usual, steps)

    return line.run(look)


def _slope(line: Line, slope: float, usual: float, steps: int) -> tuple[Check, list[_Gap]]:
    # What served another direction serves this one, more often than not.
    first, *others = sorted(line.steps, key=lambda step: step != line.lines.agreed)
    gaps = [_gap(line, first, slope, usual)]
    # Wider steps first where rounding is what parts the two.
    coarse = gaps[0].noise > AGREE
    for step in (None, *sorted(others, key=lambda step: (step > first) != coarse)):
        if step is not None:
            gaps.append(_gap(line, step, slope, usual))
        if not math.isfinite(gaps[-1].size):
            return Check("gradient", UNKNOWN, sentence="not finite near the weights"), []
        best = _agreeing(gaps, steps)
        if best is not None:
            if _rounded_away(line, best):
                return _uncheckable(line.objective), []
            line.lines.agreed = best.step
            sentence = "its slope equals differences of values"
            return Check("gradient", PASSED, best.size, sentence), []
    return Check("gradient", UNKNOWN), gaps


def _gap(line: Line, step: float, slope: float, usual: float) -> _Gap:
    low, high = line.value(-step), line.value(step)
    difference = (high - low) / (2 * step * line.length)
    scale = max(abs(slope), abs(difference), usual) or 1.0
    rounding = line.rounding.of_difference(step) / scale
    value = max(abs(low), abs(high))
    size, noise = abs(difference - slope) / scale, rounding * value
    return _Gap(size, noise, rounding, value, slope, difference, step, line.number)


def _agreeing(gaps: list[_Gap], steps: int) -> _Gap | None:
    # At one step, and about so at others: a surrogate may agree at one by chance.
    clear = [gap for gap in gaps if gap.noise <= CLEARLY * AGREE]
    near = sum(gap.size <= 5 * AGREE + gap.noise for gap in gaps)
    if not clear or near < steps or _settled_elsewhere(gaps):
        return None
    best = min(clear, key=lambda gap: gap.size)
    return best if best.size <= max(AGREE, min(best.noise, 3 * AGREE)) else None


def _rounded_away(line: Line, gap: _Gap) -> bool:
    # Agreement in what rounding leaves of a loss near zero, or in zeros, says nothing.
    if not gap.slope and not gap.found and not line.lines.usual:
        return gap.value == 0
    return gap.rounding > 1 and gap.rounding * max(line.rounding.losses, gap.value) > 1


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
    """Check the gradient before the first number that rests on it, once an objective."""
    if objective.derivatives == "unchecked" or not objective.is_checked:
        return
    require_whole(objective)
    if objective.placed is not None:
        # Gradients that are missing would look like those of another loss.
        objective.placed.check_gradients()
    if "gradient" in objective.checks:
        return
    check = guarded("gradient", check_slope, objective)
    objective.checks["gradient"] = check
    if check.status == FAILED:
        warnings.warn(f"{check.sentence}.", DerivativeWarning, stacklevel=4)


def require_whole(objective: "Objective") -> None:
    """Refuse an objective whose graph is cut on the way to some parameters."""
    if objective.cut:
        raise DerivativeError(
            f"'{objective.cut[0]}'{more(objective.cut)} moves the loss and gets no gradient: "
            "the graph is cut on the way to it (torch.utils.checkpoint needs "
            "use_reentrant=False; .detach(), rounding and argmax cut it too); leave it out "
            "with params=, or map only."
        )
