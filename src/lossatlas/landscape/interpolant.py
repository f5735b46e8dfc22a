"""Radial basis interpolation of scattered points, with expected errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
# From rough to smooth: r, r^3, ..., r^9, with polynomials of degree 0 to 4.
_POWERS = (1, 3, 5, 7, 9)
# The power whose power function carries errors from one place to another.
_GUIDE = 3
_FEWEST = 3
# More centers than this are split into overlapping boxes: each takes its own power, so that
# a kink does not roughen the whole map, and the cost of one box is cubic in them.
_MOST_CENTERS = 120
# Beyond this condition number the inverse has too few digits left to leave points out.
_WORST_CONDITION = 1e13
_QUERIES_AT_ONCE = 8192
# On the rim, with known points on one side only and the steepest loss, errors are up to twice
# what points that are left out inside tell: maps of networks far beyond their basin.
_RIM = 2.0
# Differences below this share of the largest value are rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Surface:
    """An interpolant on a whole grid.

    Attributes:
        values: shape (*grid, columns); the given values at known points.
        doubt: expected size of the error of column 0, shape (*grid,), doubled on the boundary;
            0 at known points, inf if it cannot be estimated.
    """

    values: Array
    doubt: Array


def interpolate(known: Mask, values: Array) -> Surface:
    """Interpolate all known points, with the expected error elsewhere."""
    usable = known[..., None] & np.isfinite(values)
    whole, doubt = np.full(values.shape, np.nan), np.full(known.shape, np.inf)
    for columns in _alike(usable):
        centers = usable[..., columns[0]]
        blended, spread = _blended(centers, values[..., columns], ~known)
        whole[..., columns] = _unknown_near_unknown(blended, known, centers)
        if columns[0] == 0:
            doubt = np.where(_rim(known.shape), _RIM * spread, spread)
    whole = _within_rounding(whole, values, usable)
    whole[known] = values[known]
    return Surface(whole, np.where(known, 0.0, doubt))


def _within_rounding(whole: Array, values: Array, usable: Mask) -> Array:
    # Of losses up to 1e15 rounding is a loss of 1e5: it may not leave what is known, least of
    # all below a cross-entropy of 2.3.
    for column in range(values.shape[-1]):
        known = values[..., column][usable[..., column]]
        if not known.size:
            continue
        low, high, found = known.min(), known.max(), whole[..., column]
        slack = ROUNDING * float(np.abs(known).max())
        found[(found < low) & (found >= low - slack)] = low
        found[(found > high) & (found <= high + slack)] = high
    return whole


def _rim(shape: tuple[int, ...]) -> Mask:
    rim = np.ones(shape, dtype=bool)
    rim[(slice(1, -1),) * len(shape)] = False
    return rim


def _alike(usable: Mask) -> list[list[int]]:
    # Columns that are known at the same points.
    groups: dict[bytes, list[int]] = {}
    for column in range(usable.shape[-1]):
        groups.setdefault(usable[..., column].tobytes(), []).append(column)
    return list(groups.values())


def _unknown_near_unknown(blended: Array, known: Mask, centers: Mask) -> Array:
    if (centers == known).all() or not known.any():
        return blended
    nearest = scipy.ndimage.distance_transform_edt(
        ~known, return_distances=False, return_indices=True
    )
    return np.where(centers[tuple(nearest)][..., None], blended, np.nan)


def _blended(centers: Mask, values: Array, wanted: Mask) -> tuple[Array, Array]:
    # A partition of unity: every box has its own interpolant, weights fade towards its rim.
    weight = np.zeros(centers.shape)
    total, variance = np.zeros(values.shape), np.zeros(centers.shape)
    size = float(max(centers.shape) - 1)
    for box in _boxes(centers, wanted):
        queries = np.argwhere(wanted[box])
        places = np.argwhere(centers[box])
        patch = _patch(places / size, values[box][centers[box]], queries / size)
        if patch is None:
            continue
        inside = tuple(queries.T)
        share = _fading(queries, wanted[box].shape)
        weight[box][inside] += share
        total[box][inside] += share[:, None] * patch[0]
        variance[box][inside] += share * patch[1] ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        doubt = np.sqrt(variance / weight)
        return total / weight[..., None], np.where(np.isnan(doubt), np.inf, doubt)


def _boxes(centers: Mask, wanted: Mask) -> Iterator[tuple[slice, ...]]:
    waiting = [tuple((0, points) for points in centers.shape)]
    while waiting:
        core = waiting.pop()
        if not wanted[tuple(slice(*side) for side in core)].any():
            continue
        box = tuple(
            slice(max(0, low - _margin(low, high)), high + _margin(low, high))
            for low, high in core
        )
        longest = int(np.argmax([high - low for low, high in core]))
        low, high = core[longest]
        if np.count_nonzero(centers[box]) <= _MOST_CENTERS or high - low < 4:
            yield box
            continue
        middle = (low + high) // 2
        waiting += [
            (*core[:longest], half, *core[longest + 1 :])
            for half in ((low, middle), (middle, high))
        ]


def _margin(low: int, high: int) -> int:
    return (high - low) // 4 + 2


def _fading(places: NDArray[np.intp], shape: tuple[int, ...]) -> Array:
    hats = np.sin(np.pi * (places + 0.5) / np.array(shape)) ** 2
    return np.asarray(hats.prod(axis=1))


class _Radial:
    """A radial function of one power through some centers, in closed form.

    Attributes:
        left_out: by how much every center is missed where it is left out.
        left_out_power: the power function of the others there.
        rounding: by how much the loss is missed at its own centers.
    """

    def __init__(self, centers: Array, values: Array, exponent: int) -> None:
        self.exponent, self.centers = exponent, centers
        kernel, tail = self._kernel(_squares(centers, centers)), self._tail(centers)
        count, terms = tail.shape
        if count < terms + 2 or np.linalg.matrix_rank(tail) < terms:
            raise np.linalg.LinAlgError
        system = np.block([[kernel, tail], [tail.T, np.zeros((terms, terms))]])
        self.inverse = np.linalg.inv(system)
        condition = np.linalg.norm(system, 1) * np.linalg.norm(self.inverse, 1)
        diagonal = np.diag(self.inverse)[:count]
        if not condition < _WORST_CONDITION or not np.all(diagonal != 0):
            raise np.linalg.LinAlgError
        target = np.concatenate([values, np.zeros((terms, values.shape[1]))])
        weights = self.inverse @ target
        # One step of refinement: the inverse has lost as many digits as the condition has.
        self.weights = weights + self.inverse @ (target - system @ weights)
        self.rounding = float(np.abs(target - system @ self.weights)[:count, 0].max())
        self.left_out = self.weights[:count] / diagonal[:, None]
        self.left_out_power = 1 / np.sqrt(np.abs(diagonal))

    def _kernel(self, squares: Array) -> Array:
        kernel = np.sqrt(squares)
        for _ in range((self.exponent - 1) // 2):
            kernel *= squares
        # Signed so that it is conditionally positive definite.
        if self.exponent % 4 == 1:
            np.negative(kernel, out=kernel)
        return kernel

    def _tail(self, points: Array) -> Array:
        degree, axes = (self.exponent - 1) // 2, range(points.shape[1])
        terms = [t for k in range(degree + 1) for t in combinations_with_replacement(axes, k)]
        return np.stack([points[:, term].prod(axis=1) for term in terms], axis=1)

    def basis(self, points: Array, squares: Array) -> Array:
        """One row per point, from its squared distances to the centers."""
        return np.concatenate([self._kernel(squares), self._tail(points)], axis=1)

    def at(self, basis: Array) -> Array:
        return np.asarray(basis @ self.weights)

    def power(self, basis: Array) -> Array:
        square = -np.einsum("ij,ij->i", basis @ self.inverse, basis)
        return np.asarray(np.sqrt(np.maximum(square, 0.0)))

    def density(self, neighbors: NDArray[np.intp]) -> Array:
        # Minus the logarithm, a point, for every column: the lowest is the best.
        relative = np.abs(self.left_out) / self.left_out_power[:, None]
        size = _largest(relative, neighbors) * self.left_out_power[:, None]
        return np.asarray(np.log(size + np.finfo(float).tiny).mean(axis=0))


def _largest(sizes: Array, nearest: NDArray[np.intp]) -> Array:
    # Never below the typical size: few neighbors may all happen to be well predicted.
    return np.asarray(np.maximum(sizes[nearest].max(axis=1), np.median(sizes, axis=0)))


def _patch(centers: Array, values: Array, queries: Array) -> tuple[Array, Array] | None:
    if len(centers) < _FEWEST:
        return None
    middle = (centers.min(0) + centers.max(0)) / 2
    half = float(np.ptp(centers, axis=0).max()) / 2
    centers, queries = (centers - middle) / half, (queries - middle) / half
    fits = [fit for power in _POWERS if (fit := _fit(centers, values, power))]
    if not fits:
        return None
    near = min(len(centers), 2 ** (centers.shape[1] + 1))
    around = _nearest(_squares(centers, centers), near)
    best = np.argmin([fit.density(around) for fit in fits], axis=0)
    guide = next((fit for fit in fits if fit.exponent == _GUIDE), fits[0])
    relative = np.abs(fits[best[0]].left_out[:, 0]) / guide.left_out_power
    predicted, doubt = np.empty((len(queries), values.shape[1])), np.empty(len(queries))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        piece = slice(start, start + _QUERIES_AT_ONCE)
        squares = _squares(queries[piece], centers)
        basis = guide.basis(queries[piece], squares)
        nearest = _nearest(squares, near)
        doubt[piece] = guide.power(basis) * _largest(relative, nearest)
        for number in np.unique(best):
            columns = best == number
            own_fit = fits[number] is guide
            rows = basis if own_fit else fits[number].basis(queries[piece], squares)
            predicted[piece, columns] = fits[number].at(rows)[:, columns]
    return predicted, doubt + fits[best[0]].rounding


def _nearest(squares: Array, count: int) -> NDArray[np.intp]:
    # In no order. Centers are few, so a partition beats a tree.
    if count == squares.shape[1]:
        return np.broadcast_to(np.arange(count), squares.shape)
    return np.argpartition(squares, count - 1, axis=1)[:, :count]


def _squares(points: Array, centers: Array) -> Array:
    return np.asarray(scipy.spatial.distance.cdist(points, centers, "sqeuclidean"))


def _fit(centers: Array, values: Array, power: int) -> _Radial | None:
    try:
        return _Radial(centers, values, power)
    except np.linalg.LinAlgError:
        return None
