"""Means with their standard errors, for many points and quantities at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_Where = tuple[int, int]


@dataclass(frozen=True)
class Evaluation:
    """One number of an objective at one point, with its sampling error.

    Attributes:
        value: the mean over all examples, accumulated in float64, in the units of the loss.
        stderr: standard error of that mean, same units; NaN where it cannot be had.
        count: how many units the error comes from.
        unit: "examples", or "batches" where the loss gives only means.
    """

    value: float
    stderr: float
    count: int
    unit: str

    @property
    def why_no_error(self) -> str | None:
        """Why `stderr` is NaN, as a sentence; None where there is an error.

        Returns:
            The reason or None.
        """
        if not math.isfinite(self.value):
            return "the loss is not finite"
        if self.count < 2:
            return f"a spread needs two {self.unit}; there is one"
        return None


class Moments:
    """Running sums of weighted means and their spread, in float64.

    The variance is that of the units themselves (examples, or batch means weighted by batch
    size), so the standard error is the sampling error of the mean.

    Args:
        points: how many points are evaluated side by side.
        quantities: how many numbers a point has (the loss and metrics).
    """

    def __init__(self, points: int = 1, quantities: int = 1) -> None:
        shape = (points, quantities)
        # Sums are taken of differences to the first unit, so that squares do not cancel.
        self._shift = np.full(shape, np.nan)
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)
        self._weight, self._count = np.zeros(shape), np.zeros(shape)
        # The farthest units on either side, and the most that one weighs.
        self._low, self._high = np.full(shape, np.inf), np.full(shape, -np.inf)
        self._heaviest = np.zeros(shape)
        self._single = [True] * quantities

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
        where = (slice(None) if points is None else points, quantity)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = values - self._origin(where, values[:, 0])[:, None]
            self._sum[where] += weight * difference.sum(1)
            self._squares[where] += weight * np.einsum("pu,pu->p", difference, difference)
            self._low[where] = np.minimum(self._low[where], difference.min(1))
            self._high[where] = np.maximum(self._high[where], difference.max(1))
        self._heaviest[where] = np.maximum(self._heaviest[where], weight)
        self._weight[where] += weight * values.shape[1]
        self._count[where] += values.shape[1]

    def _add_row(self, values: NDArray[np.float64], weight: float, where: _Where) -> None:
        # What `add` does for one point, without the cost of many small arrays.
        if not math.isfinite(self._shift[where]) and math.isfinite(values[0]):
            self._shift[where] = values[0]
        shift = self._shift[where]
        with np.errstate(invalid="ignore", over="ignore"):
            difference = values - (0.0 if math.isnan(shift) else shift)
            self._sum[where] += weight * difference.sum()
            self._squares[where] += weight * np.einsum("u,u->", difference, difference)
            self._low[where] = np.minimum(self._low[where], difference.min())
            self._high[where] = np.maximum(self._high[where], difference.max())
        self._heaviest[where] = max(self._heaviest[where], weight)
        self._weight[where] += weight * len(values)
        self._count[where] += len(values)

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

    def add_batch(self, measured: Sequence[Tensor], size: int, points: slice | int) -> None:
        """Take in all quantities of one batch.

        Args:
            measured: one tensor a quantity: (batch,) where examples are known, otherwise ();
                for a slice of points with an axis of points in front.
            size: examples in the batch; what a mean weighs.
            points: which points, or which one.
        """
        stacked = isinstance(points, slice)
        for quantity, values in enumerate(measured):
            units = values.detach().double().cpu().numpy()
            per_example = units.ndim > int(stacked)
            weight = 1.0 if per_example else float(size)
            self._single[quantity] &= per_example
            if isinstance(points, slice):
                shaped = units.reshape(-1, units.shape[-1] if per_example else 1)
                self.add(shaped, weight, points=points, quantity=quantity)
            else:
                self._add_row(units.reshape(-1), weight, (points, quantity))

    def mean(self) -> NDArray[np.float64]:
        """The means.

        Returns:
            Shape (points, quantities); not finite where a unit was not.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.nan_to_num(self._shift) + self._sum / self._weight)

    def stderr(self) -> NDArray[np.float64]:
        """The standard errors of the means.

        Returns:
            Shape (points, quantities); NaN where there is one unit or a value is not finite.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            spread = self._squares - self._sum**2 / self._weight
            degrees = np.where(self._count > 1, self._count - 1, np.nan)
            error = np.sqrt(np.maximum(spread, 0) / (degrees * self._weight))
        return np.where(np.isfinite(self._sum), error, np.nan)

    def leverage(self) -> NDArray[np.float64]:
        """The largest share of the variance that one unit carries.

        The largest squared distance of a unit from the mean, over the sum of all of them:
        1 / n at least, near 1 where one unit alone makes the spread. With unequal weights it
        is an upper bound.

        Returns:
            Shape (points, quantities), 0 to 1; 1 where the units do not differ or there is
            one, NaN where a value is not finite.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            middle = self._sum / self._weight
            farthest = np.maximum(self._high - middle, middle - self._low)
            spread = self._squares - self._sum * middle
            share = self._heaviest * farthest**2 / spread
        share = np.where((spread > 0) & (self._count > 1), np.minimum(share, 1.0), 1.0)
        return np.where(np.isfinite(self._sum), share, np.nan)

    def counts(self) -> NDArray[np.float64]:
        """How many units each mean comes from.

        Returns:
            Shape (points, quantities).
        """
        return self._count.copy()

    def evaluations(self) -> list[Evaluation]:
        """The quantities of the first point, one by one.

        Returns:
            Value, error, and what the error is over.
        """
        return [
            Evaluation(
                float(self.mean()[0, quantity]),
                float(self.stderr()[0, quantity]),
                int(self._count[0, quantity]),
                "examples" if self._single[quantity] else "batches",
            )
            for quantity in range(self._count.shape[1])
        ]
