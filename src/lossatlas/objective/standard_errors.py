"""Standard errors of means of losses and metrics, for many points and quantities at once."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_at_least
from lossatlas.objective.weighted import Measured, Weighted, check_weights
from lossatlas.result import Estimate

_Where = tuple[int, int]
_Size = float | Callable[[], float]
# Quantities of one batch, what a mean of them weighs, and whose they are.
_Waiting = tuple[list[Measured], float, slice | int]
# Numbers that may wait on a device: their float64 copies then take 32 MiB.
_MOST_WAITING = 1 << 22
# Fewer numbers of one point wait as well: adding them takes longer than all other bookkeeping.
_FEW = 1 << 12
# What is added, and what is compared, where the sums of two sets of units become one.
_SUMS = (
    "_sum", "_squares", "_weight", "_count", "_cross", "_seconds", "_thirds", "_cubes",
    "_squares_cross", "_cross_seconds",
)  # fmt: skip
_EXTREMES = {
    "_low": np.minimum,
    "_high": np.maximum,
    "_lightest": np.minimum,
    "_heaviest": np.maximum,
    "_most": np.maximum,
}


class Moments:
    """Running sums of weighted means and their spread, in float64.

    Units are examples, or batch means weighted by batch size. A mean of n examples has n times
    less variance than one of them, so that squares of batch means are weighted by size. Pairs
    of sums and weights have the linearized variance of a ratio R,

        sum_i (s_i - R w_i)^2 / (sum w)^2 / c,
        c = 1 + sum w^2 / (sum w)^2 - 2 sum w^3 / (sum w sum w^2),

    where c is (n - 1) / n if weights are equal, and less if few units carry most of the weight.
    Third moments of the same residuals give the skewness of the means.

    Args:
        points: how many points are evaluated side by side.
        quantities: how many numbers a point has (the loss and metrics).

    Raises:
        ArgumentError: a number below 1.
    """

    def __init__(self, points: int = 1, quantities: int = 1) -> None:
        check_at_least("points", points, 1)
        check_at_least("quantities", quantities, 1)
        shape = (points, quantities)
        # Sums are taken of differences to the first unit, so that squares do not cancel.
        self._shift = np.full(shape, np.nan)
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)
        self._weight, self._count = np.zeros(shape), np.zeros(shape)
        # Of pairs: sums of d w, w^2 and w^3.
        self._cross, self._seconds = np.zeros(shape), np.zeros(shape)
        self._thirds = np.zeros(shape)
        # Sums of d^3, d^2 w, d w^2: of pairs; of means those of w^2 times d^3, d^2 and d, and
        # w^2 itself is in the thirds.
        self._cubes, self._squares_cross = np.zeros(shape), np.zeros(shape)
        self._cross_seconds = np.zeros(shape)
        # The farthest units on either side, the range of weights of pairs, and the most that a
        # mean weighs.
        self._low, self._high = np.full(shape, np.inf), np.full(shape, -np.inf)
        self._lightest, self._heaviest = np.full(shape, np.inf), np.zeros(shape)
        self._most = np.ones(shape)
        self._single, self._pairs = [True] * quantities, [False] * quantities
        # What was measured and is not added yet, and how much it is.
        self._waiting: list[_Waiting] = []
        self._numel = 0
        self.copies = 0

    def add(
        self,
        values: NDArray[np.float64],
        weight: float,
        *,
        points: slice | None = None,
        quantity: int = 0,
    ) -> None:
        """Take in some units.

        Args:
            values: shape (points, units).
            weight: what each unit weighs.
            points: which points they belong to; all by default.
            quantity: which quantity they are.
        """
        self.settle()
        where = (slice(None) if points is None else points, quantity)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = values - self._origin(where, values[:, 0])[:, None]
            self._add_powers(difference, weight, where)
            self._low[where] = np.minimum(self._low[where], difference.min(1))
            self._high[where] = np.maximum(self._high[where], difference.max(1))
        self._most[where] = np.maximum(self._most[where], weight)

    def _add_powers(
        self, d: NDArray[np.float64], weight: float, where: tuple[slice | int, int]
    ) -> None:
        first, squared = d.sum(-1), d * d
        second = squared.sum(-1)
        squared *= d
        self._sum[where] += weight * first
        self._squares[where] += weight * second
        self._cubes[where] += weight**2 * squared.sum(-1)
        self._squares_cross[where] += weight**2 * second
        self._cross_seconds[where] += weight**2 * first
        units = d.shape[-1]
        self._thirds[where] += weight**2 * units
        self._weight[where] += weight * units
        self._count[where] += units

    def add_pairs(
        self,
        sums: NDArray[np.float64],
        weights: NDArray[np.float64],
        *,
        points: slice | None = None,
        quantity: int = 0,
    ) -> None:
        """Take in examples as sums and weights.

        Args:
            sums: shape (points, units).
            weights: shape (points, units), or (1, units) where they are the same everywhere.
            points: which points they belong to; all by default.
            quantity: which quantity they are.

        Raises:
            LossError: a weight is negative or not finite.
        """
        check_weights(weights)
        self.settle()
        where = (slice(None) if points is None else points, quantity)
        total = weights.sum(1)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            shift = self._origin(where, sums.sum(1) / total)
            d = sums - shift[:, None] * weights
            self._sum[where] += d.sum(1)
            squared = d * d
            self._squares[where] += squared.sum(1)
            self._cubes[where] += (squared * d).sum(1)
            self._squares_cross[where] += (squared * weights).sum(1)
            self._cross[where] += (d * weights).sum(1)
            self._cross_seconds[where] += (d * weights**2).sum(1)
            self._low[where] = np.minimum(self._low[where], d.min(1))
            self._high[where] = np.maximum(self._high[where], d.max(1))
        self._lightest[where] = np.minimum(self._lightest[where], weights.min(1))
        self._heaviest[where] = np.maximum(self._heaviest[where], weights.max(1))
        self._seconds[where] += (weights**2).sum(1)
        self._thirds[where] += (weights**3).sum(1)
        self._weight[where] += total
        self._count[where] += np.count_nonzero(weights, axis=1)
        self._pairs[quantity] = True

    def _add_row(self, values: NDArray[np.float64], weight: float, where: _Where) -> None:
        # What `add` does for one point, without the cost of many small arrays.
        if not math.isfinite(self._shift[where]) and math.isfinite(values[0]):
            self._shift[where] = values[0]
        shift = self._shift[where]
        with np.errstate(invalid="ignore", over="ignore"):
            difference = values - (0.0 if math.isnan(shift) else shift)
            self._add_powers(difference, weight, where)
            self._low[where] = np.minimum(self._low[where], difference.min())
            self._high[where] = np.maximum(self._high[where], difference.max())
        self._most[where] = max(self._most[where], weight)

    def _origin(
        self, where: tuple[slice, int], first: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        shift = self._shift[where]
        unknown = np.isnan(shift)
        if unknown.any():
            shift = np.where(unknown & np.isfinite(first), first, shift)
            self._shift[where] = shift
            shift = np.where(np.isnan(shift), 0.0, shift)
        return shift

    def add_batch(
        self,
        measured: Sequence[Measured],
        size: float | Callable[[], float],
        points: slice | int,
    ) -> None:
        """Take in all quantities of one batch.

        Args:
            measured: one tensor a quantity: (batch,) where examples are known, otherwise ();
                or pairs of two tensors (batch,); for a slice of points with an axis of points
                in front.
            size: examples in the batch; what a mean weighs. A function is asked where there
                is a mean.
            points: which points, or which one.

        Raises:
            LossError: a weight is negative or not finite.
        """
        values = _tensors_of(measured)
        numel = sum(value.numel() for value in values)
        if (isinstance(points, int) and numel <= _FEW) or any(map(_is_far, values)):
            self._wait(measured, size, points, numel)
        else:
            self.settle()
            self._take(measured, size, points)

    def _wait(
        self,
        measured: Sequence[Measured],
        size: float | Callable[[], float],
        points: slice | int,
        numel: int,
    ) -> None:
        # A copy from a device waits for all that it has to do: one copy serves many points. The
        # tensor may be one that the model writes into again.
        kept = [_map(values, lambda value: value.detach().clone()) for values in measured]
        means = any(not isinstance(values, Weighted) for values in kept)
        weight = float(size() if callable(size) else size) if means else 1.0
        self._waiting.append((kept, weight, points))
        self._numel += numel
        if self._numel >= _MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Take in what waits, of each point in the order in which it was measured."""
        waiting, self._waiting, self._numel = self._waiting, [], 0
        if not waiting:
            return
        flat = [value for measured, _, _ in waiting for value in _tensors_of(measured)]
        if any(map(_is_far, flat)):
            flat = _copied(flat)
            self.copies += 1
        near = iter(flat)
        back = [
            ([_map(values, lambda _: next(near)) for values in measured], weight, points)
            for measured, weight, points in waiting
        ]
        for each in _side_by_side(back):
            self._take(*each)

    def _take(
        self,
        measured: Sequence[Measured],
        size: float | Callable[[], float],
        points: slice | int,
    ) -> None:
        stacked = isinstance(points, slice)
        for quantity, values in enumerate(measured):
            if isinstance(values, Weighted):
                self._add_weighted(values, points, quantity)
                continue
            units = _numbers(values)
            per_example = units.ndim > int(stacked)
            weight = 1.0 if per_example else float(size() if callable(size) else size)
            self._single[quantity] &= per_example
            if units.shape[-1:] == (0,):
                continue
            if isinstance(points, slice):
                shaped = units.reshape(-1, units.shape[-1] if per_example else 1)
                self.add(shaped, weight, points=points, quantity=quantity)
            else:
                self._add_row(units.reshape(-1), weight, (points, quantity))

    def _add_weighted(self, pairs: Weighted, points: slice | int, quantity: int) -> None:
        sums, weights = np.atleast_2d(_numbers(pairs.sums)), _numbers(pairs.weights)
        if sums.shape[-1]:
            where = points if isinstance(points, slice) else slice(points, points + 1)
            self.add_pairs(sums, np.atleast_2d(weights), points=where, quantity=quantity)

    def merge(self, other: "Moments") -> None:
        """Take in the sums of another one, of the same points and quantities.

        Args:
            other: it is changed.
        """
        self.settle()
        other.settle()
        unknown = np.isnan(self._shift)
        self._shift = np.where(unknown, other._shift, self._shift)
        with np.errstate(invalid="ignore", over="ignore"):
            other._move_to(self._shift)
            for name in _SUMS:
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, either in _EXTREMES.items():
            setattr(self, name, either(getattr(self, name), getattr(other, name)))
        self._single = [a and b for a, b in zip(self._single, other._single, strict=True)]
        self._pairs = [a or b for a, b in zip(self._pairs, other._pairs, strict=True)]

    def _move_to(self, shift: NDArray[np.float64]) -> None:
        # Every difference d becomes d + step, of pairs d + step * weight.
        step = np.nan_to_num(np.nan_to_num(self._shift) - np.nan_to_num(shift))
        pairs = np.array(self._pairs)
        seconds = np.where(pairs, self._seconds, self._weight)
        cross = np.where(pairs, self._cross, self._sum)
        self._cubes += step * (
            3 * self._squares_cross + step * (3 * self._cross_seconds + step * self._thirds)
        )
        self._squares_cross += step * (2 * self._cross_seconds + step * self._thirds)
        self._cross_seconds += step * self._thirds
        self._squares += step * (2 * cross + step * seconds)
        self._cross += step * self._seconds
        self._sum += step * self._weight
        light = np.where(pairs, np.nan_to_num(self._lightest, posinf=0.0), 1.0) * step
        heavy = np.where(pairs, self._heaviest, 1.0) * step
        self._low += np.minimum(light, heavy)
        self._high += np.maximum(light, heavy)
        self._shift = shift

    def __getstate__(self) -> dict[str, object]:
        self.settle()
        return dict(vars(self))

    def mean(self) -> NDArray[np.float64]:
        """The means.

        Returns:
            Shape (points, quantities); not finite where a unit was not.
        """
        self.settle()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.nan_to_num(self._shift) + self._sum / self._weight)

    def stderr(self) -> NDArray[np.float64]:
        """The standard errors of the means.

        Returns:
            Shape (points, quantities); NaN where there is one unit or a value is not finite.
        """
        self.settle()
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            spread = self._spread()
            degrees = np.where(self._count > 1, self._count - 1, np.nan)
            error = np.sqrt(np.maximum(spread, 0) / (degrees * self._weight))
        error = np.where(np.isfinite(self._sum), error, np.nan)
        return np.where(self._pairs, self._stderr_of_ratio(), error)

    def _stderr_of_ratio(self) -> NDArray[np.float64]:
        # Residuals s_i - R w_i, squared and summed. Their expectation falls short by more than
        # (n - 1) / n where weights differ: by this share, were all examples equally variable.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            squares = self._residual_squares()
            share = 1 + self._seconds / self._weight**2
            share -= 2 * self._thirds / (self._weight * self._seconds)
            error = np.sqrt(np.maximum(squares, 0) / share) / self._weight
        return np.where(np.isfinite(self._sum) & (self._count > 1), error, np.nan)

    def _residual_squares(self) -> NDArray[np.float64]:
        step = self._sum / self._weight
        return self._squares - 2 * step * self._cross + step**2 * self._seconds

    def effective(self) -> NDArray[np.float64]:
        """The effective number of units, (sum w)^2 / sum w^2 over weights of examples.

        Returns:
            Shape (points, quantities), 2 at least where two units count; the number of batches
            where only means are known.
        """
        self.settle()
        with np.errstate(invalid="ignore", divide="ignore"):
            kish = self._weight**2 / self._seconds
        return np.where(self._pairs, np.maximum(kish, np.minimum(self._count, 2)), self._count)

    def _spread(self) -> NDArray[np.float64]:
        # Sums of squared residuals.
        means = self._squares - self._sum**2 / self._weight
        return np.where(self._pairs, self._residual_squares(), means)

    def skewness(self) -> NDArray[np.float64]:
        """The skewness of the means, as an interval about them needs it.

        sum e^3 / (sum e^2)^1.5 over residuals e_i = s_i - R w_i, the skewness of the units by
        sqrt(n) where they count alike. A ratio has 3 sum(e w) / sum w / sqrt(sum e^2) less: its
        error is large where long examples have high losses and many of them were drawn. It is
        minus half the third cumulant of (mean - truth) / stderr, to the order 1 / sqrt(n).

        Returns:
            Shape (points, quantities); 0 where it is unknown.
        """
        self.settle()
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            step, spread = self._sum / self._weight, self._spread()
            cubes = self._cubes - 3 * step * self._squares_cross
            cubes += 3 * step**2 * self._cross_seconds - step**3 * self._thirds
            # A mean of k examples has 1 / k^2 of the third moment of one.
            scale = np.where(self._pairs, 1.0, np.sqrt(self._count / self._weight))
            together = self._cross - step * self._seconds
            adjusted = scale * cubes / spread**1.5 - 3 * together / self._weight / spread**0.5
        return np.where(np.isfinite(adjusted) & (self._count > 2), adjusted, 0.0)

    def leverage(self) -> NDArray[np.float64]:
        """The largest share of the variance that one unit carries.

        The largest squared residual of a unit, over the sum of all of them: 1 / n at least,
        near 1 where one unit alone makes the spread. With unequal weights it is an upper
        bound, from the extremes of residuals and weights.

        Returns:
            Shape (points, quantities), 0 to 1; 1 where the units do not differ or there is
            one, NaN where a value is not finite.
        """
        self.settle()
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            step = self._sum / self._weight
            # Units that are no pairs weigh 1, whatever their mean weighs.
            light = np.where(self._pairs, self._lightest, 1.0) * step
            heavy = np.where(self._pairs, self._heaviest, 1.0) * step
            above = self._high - np.minimum(light, heavy)
            below = np.maximum(light, heavy) - self._low
            share = self._most * np.maximum(above, below) ** 2 / self._spread()
        known = np.isfinite(share) & (share >= 0) & (self._count > 1)
        share = np.where(known, np.minimum(share, 1.0), 1.0)
        return np.where(np.isfinite(self._sum), share, np.nan)

    def estimates(self) -> list[Estimate]:
        """The quantities of the first point, one by one.

        Returns:
            Value, error, and what the error is over: `samples` counts the units that have a
            weight, `effective` is their effective number.
        """
        self.settle()
        return [self._estimate(quantity) for quantity in range(self._count.shape[1])]

    def _estimate(self, quantity: int) -> Estimate:
        where = (0, quantity)
        value, samples = float(self.mean()[where]), int(self._count[where])
        unit = "examples" if self._single[quantity] else "batches"
        return Estimate(
            value,
            float(self.stderr()[where]),
            samples=samples,
            why_no_error=_why_no_error(value, samples, unit),
            sample_unit=unit,
            effective=float(self.effective()[where]),
            skewness=float(self.skewness()[where]),
        )


def _why_no_error(value: float, samples: int, unit: str) -> str | None:
    if not math.isfinite(value):
        return "the loss is not finite"
    return f"a spread needs two {unit}; there is one" if samples < 2 else None


def _numbers(values: Tensor) -> NDArray[np.float64]:
    # Wide only here: some devices have no float64.
    array: NDArray[np.float64] = values.detach().cpu().double().numpy()
    return array


def _is_far(value: Tensor) -> bool:
    return value.device.type != "cpu"


def _tensors_of(measured: Sequence[Measured]) -> list[Tensor]:
    return [
        value
        for values in measured
        for value in (values if isinstance(values, Weighted) else (values,))
    ]


def _map(values: Measured, change: Callable[[Tensor], Tensor]) -> Measured:
    return Weighted(*map(change, values)) if isinstance(values, Weighted) else change(values)


def _side_by_side(waiting: list[_Waiting]) -> list[_Waiting]:
    # What came first of neighboring points, as one; then what came second, and so on.
    if any(isinstance(points, slice) for _, _, points in waiting):
        return waiting
    turns: dict[object, int] = {}
    rounds: dict[int, list[_Waiting]] = {}
    for each in waiting:
        turn = turns[each[2]] = turns.get(each[2], -1) + 1
        rounds.setdefault(turn, []).append(each)
    return [one for turn in sorted(rounds) for one in _runs(rounds[turn])]


def _runs(entries: list[_Waiting]) -> Iterator[_Waiting]:
    run: list[_Waiting] = []
    following: object = None
    for each in entries:
        measured, weight, point = each
        assert isinstance(point, int)
        layout = (
            weight,
            [(type(values), *map(_form, _tensors_of([values]))) for values in measured],
        )
        if run and following != (point, layout):
            yield _joined(run)
            run = []
        run.append(each)
        following = point + 1, layout
    yield _joined(run)


def _form(value: Tensor) -> tuple[torch.dtype, torch.Size]:
    return value.dtype, value.shape


def _joined(run: list[_Waiting]) -> _Waiting:
    measured, weight, first = run[0]
    if len(run) == 1:
        return run[0]
    assert isinstance(first, int)
    columns = zip(*(_tensors_of(each[0]) for each in run), strict=True)
    stacks = iter([torch.stack(column) for column in columns])
    whole = [_map(values, lambda _: next(stacks)) for values in measured]
    return whole, weight, slice(first, first + len(run))


def _copied(values: Sequence[Tensor]) -> list[Tensor]:
    # One copy a type, whatever the number of tensors.
    copies: dict[int, Tensor] = {}
    for kind in dict.fromkeys((value.dtype, value.device) for value in values):
        places = [k for k, value in enumerate(values) if (value.dtype, value.device) == kind]
        flat = torch.cat([values[k].reshape(-1) for k in places]).cpu()
        parts = torch.split(flat, [values[k].numel() for k in places])
        copies |= {k: p.view(values[k].shape) for k, p in zip(places, parts, strict=True)}
    return [copies[k] for k in range(len(values))]
