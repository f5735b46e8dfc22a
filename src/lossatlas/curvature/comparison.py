"""A derivative along a line against central differences, with rounding and kinks separated."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lossatlas.objective import Check
from lossatlas.objective.lines import Line, midpoints
from lossatlas.objective.selfcheck import AGREE, CLEARLY, FAILED, PASSED, SETTLED, UNKNOWN

Vectors = list[Tensor]
# Every pair of gradients costs two: what two pairs do not settle has kinks.
_PAIRS = 2
# Gradients bend this much at a step that crosses kinks: what they change by on its two sides
# has little in common. Smooth ones bend by about the step.
_BENT = 0.5
# A tensor may be wrong alone: it is looked at where its own product is off by this share.
_OFF = 0.2
# Parts of an interval whose differences tell kinks from a wrong derivative, and how far beside
# a point rounding is looked for, as a share of the interval.
_QUARTERS, _AGAIN = 4, 1e-3
# Roundings of one number at both ends of a difference, which may settle at a wrong value, are
# a half of one at either end, not several of them at once; with a margin of two.
_ALIKE = 16
_KINKS = "kinks within every step"


class Differences:
    """Central differences along a line."""

    def __init__(
        self, line: Line, at: Callable[[float], Vectors], middle: Vectors | None = None
    ) -> None:
        self._line, self._at, self._middle = line, at, middle
        # How much what is differenced bends within a step, as a share of what it changes by.
        self.bends: dict[float, float] = {}

    def __call__(self, step: float) -> Vectors:
        """The difference at a step by its width."""
        width = 2 * step * self._line.length
        high, low = self.at(step), self.at(-step)
        change = [(a - b) / width for a, b in zip(high, low, strict=True)]
        if self._middle is not None:
            sides = zip(high, low, self._middle, strict=True)
            bend = length_of([(a + b - 2 * middle) / width for a, b, middle in sides])
            self.bends[step] = bend / (length_of(change) or 1.0)
        return change

    def at(self, step: float) -> Vectors:
        """What is differenced, at a step."""
        return [_wide(value) for value in self._at(step)]


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


@dataclass(frozen=True)
class Comparison:
    """A derivative along the line against central differences at several steps.

    Attributes:
        line: where.
        product: the derivative.
        differences: step -> central difference.
        length: of what is differenced.
        uncancelled: length that it would have if nothing cancelled in it: it rounds like that.
        derivative: step -> the derivative there, if what is differenced has no jumps.
        cancels: whether much may cancel in it, as far as can be told for nothing: that length
            costs gradients, which kinks alone are not worth.
    """

    line: Line
    product: Vectors
    differences: Differences
    length: float
    uncancelled: Callable[[], float]
    derivative: Callable[[float], Vectors] | None = None
    cancels: Callable[[], bool] = lambda: True

    def verdict(self) -> Check:
        """Agreement at any step; settled elsewhere; or neither."""
        attempts: list[tuple[float, Vectors]] = []
        gaps = []
        for place in range(_PAIRS):
            # Upwards where rounding is what parts the two.
            coarse = bool(attempts) and self._noise(*attempts[0]) > AGREE
            step = self.line.steps[3 if coarse else place]
            attempts.append((step, self.differences(step)))
            gap = self._gap(attempts[-1][1])
            if not math.isfinite(gap):
                return Check("", UNKNOWN, sentence="not finite near the weights")
            if gap <= AGREE and length_of(self.product):
                return self._with_blocks(attempts, gap)
            noise = self._noise(step, attempts[-1][1])
            if noise >= 1 and self._smallest(step) <= AGREE:
                # Both are zero as far as can be seen.
                return Check("", PASSED, self._smallest(step))
            if noise <= CLEARLY * AGREE:
                gaps.append(gap)
            if self._shows_kinks(attempts[-1]):
                break
        return self._disagreeing(attempts, gaps)

    def _disagreeing(self, attempts: list[tuple[float, Vectors]], gaps: list[float]) -> Check:
        settled = self.derivative is None and self._seems_settled(attempts)
        if settled and self._is_beyond(attempts[-1]) and self._is_smooth():
            return Check("", FAILED, self._gap(attempts[-1][1]))
        if not gaps:
            return Check("", UNKNOWN, sentence=self.line.rounding.reason)
        if self.derivative is not None and min(gaps) > CLEARLY * AGREE:
            return self._integrated(attempts, min(gaps))
        return Check("", UNKNOWN, min(gaps), _KINKS)

    def _is_beyond(self, pair: tuple[float, Vectors]) -> bool:
        # What settles has little random rounding, but may be off by what always rounds alike.
        step, difference = pair
        floor = self.line.rounding.of_difference(step) * self._rounded
        size = max(length_of(difference), length_of(self.product))
        return self._gap(difference) * size > floor / _ALIKE

    def _integrated(self, attempts: list[tuple[float, Vectors]], gap: float) -> Check:
        # The integral of a derivative is what its function changes by, whatever kinks lie
        # between; a surrogate's is not.
        assert self.derivative is not None
        exact = [pair for pair in attempts if self._noise(*pair) <= AGREE]
        if exact:
            step, difference = min(exact, key=lambda pair: pair[0])
        else:
            step, difference = min(attempts, key=lambda pair: self._noise(*pair))
        parts = [self.derivative(place) for place in midpoints(step)]
        mean = [sum(values) / len(parts) for values in zip(*parts, strict=True)]
        size = max(length_of(mean), length_of(difference)) or 1.0
        # A mean over points is off by half of what changes between them at most.
        changes = math.fsum(_distance(a, b) for a, b in pairwise(parts))
        off, bound = relative_gap(mean, difference), changes / (2 * len(parts)) / size
        if off > max(CLEARLY * AGREE, bound) + self._noise(step, difference):
            return Check("", FAILED, gap)
        if off > AGREE:
            return Check("", UNKNOWN, off, _KINKS)
        return Check("", PASSED, off)

    def _is_smooth(self, place: int | None = None) -> bool:
        # Whether a gap is that of a wrong derivative. Kinks by the hundred make differences
        # settle as well, but scatter what an interval's parts change by, more so the shorter
        # it is, like the root of their number; what is smooth scatters less there.
        fine = self.line.steps[2] < 1e-4
        wide, narrow = (1e-3, 1e-5) if fine else (1e-2, 1e-3)
        spread, rounding = self._scatter(narrow, place)
        if spread > 1 / CLEARLY:
            return False
        return spread <= 1.5 * rounding or spread <= 0.5 * self._scatter(wide, place)[0]

    def _scatter(self, step: float, place: int | None) -> tuple[float, float]:
        # Of quotients over the parts of an interval, and what rounding makes of it, as shares
        # of the gap of their mean to the product.
        at = [
            self._chosen(self.differences.at(step * (2 * part / _QUARTERS - 1)), place)
            for part in range(_QUARTERS + 1)
        ]
        again = self._chosen(self.differences.at(step * (1 + _AGAIN)), place)
        width = 2 * step * self.line.length / _QUARTERS
        quotients = [
            [(b - a) / width for a, b in zip(*two, strict=True)] for two in pairwise(at)
        ]
        mean = [sum(values) / _QUARTERS for values in zip(*quotients, strict=True)]
        gap = _distance(mean, self._chosen(self.product, place)) or 1.0
        spread = math.sqrt(sum(_distance(q, mean) ** 2 for q in quotients) / _QUARTERS)
        return spread / gap, _distance(at[-1], again) / width / gap

    def _chosen(self, vectors: Vectors, place: int | None) -> Vectors:
        return vectors if place is None else vectors[place : place + 1]

    def _gap(self, difference: Vectors) -> float:
        return relative_gap(difference, self.product)

    def _noise(self, step: float, difference: Vectors) -> float:
        # Relative; from one on neither way finds anything beyond rounding.
        size = max(length_of(difference), length_of(self.product))
        return self._floor(step) / size if size else math.inf

    @functools.cached_property
    def _rounded(self) -> float:
        return max(self.length, self.uncancelled())

    @functools.cached_property
    def _plainly_rounded(self) -> float:
        return self._rounded if not self.length or self.cancels() else self.length

    def _floor(self, step: float) -> float:
        return self.line.rounding.of_difference(step) * self._plainly_rounded

    def _smallest(self, step: float) -> float:
        # The smallest derivative that would be seen, in units of what is differenced by the
        # length of the weights.
        natural = self.length / self.line.length
        return self._floor(step) / natural if natural else math.inf

    def _shows_kinks(self, pair: tuple[float, Vectors]) -> bool:
        # Another pair is worth its cost unless kinks are plain already.
        bent = self.differences.bends.get(pair[0], 0.0) > _BENT
        return bent and self._noise(*pair) <= AGREE

    def _seems_settled(self, attempts: list[tuple[float, Vectors]]) -> bool:
        if len(attempts) < _PAIRS:
            return False
        change = relative_gap(attempts[-2][1], attempts[-1][1])
        return change <= SETTLED and self._gap(attempts[-1][1]) > CLEARLY * change

    def _with_blocks(self, attempts: list[tuple[float, Vectors]], gap: float) -> Check:
        # The whole agrees; one tensor that is far off and settled there is wrong all the same.
        before = attempts[-1][1]
        off = [
            place
            for place, (a, b) in enumerate(zip(before, self.product, strict=True))
            if relative_gap([a], [b]) > _OFF and self._counts(attempts[-1][0], a, b)
        ]
        if not off:
            return Check("", PASSED, gap)
        after = self.differences(attempts[-1][0] / 3)
        for place in off:
            change = relative_gap([before[place]], [after[place]])
            apart = relative_gap([after[place]], [self.product[place]])
            settled = change <= SETTLED and apart > CLEARLY * change
            if settled and self._is_smooth(place):
                return Check("", FAILED, apart, sentence=f"'{self.line.name(place)}'")
        return Check("", PASSED, gap)

    def _counts(self, step: float, a: Tensor, b: Tensor) -> bool:
        floor = self._floor(step)
        return max(length_of([a]), length_of([b])) > CLEARLY * floor


def length_of(vectors: Sequence[Tensor]) -> float:
    """The Euclidean length of all of them together."""
    return math.sqrt(sum(float(v.abs().double().square().sum()) for v in vectors))


def _distance(a: Vectors, b: Vectors) -> float:
    return length_of([x - y for x, y in zip(a, b, strict=True)])


def relative_gap(a: Vectors, b: Vectors) -> float:
    """How far two are apart, as a share of the longer one."""
    gap = _distance(a, b)
    size = max(length_of(a), length_of(b))
    return gap / size if size else gap
