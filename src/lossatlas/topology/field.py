"""What a filtration starts from: numbers on a grid, their walls and their error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.errors import ArgumentError, DataError, NonFiniteError
from lossatlas.reals import real_array

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

# "full": all 3^d - 1 neighbours touch. "axis": the 2d along the axes.
CONNECTIVITIES = ("full", "axis")


@runtime_checkable
class Mapped(Protocol):
    """What topology reads of a landscape; any object with these attributes will do."""

    @property
    def values(self) -> Floats:
        """Losses on the grid; non-finite where there is no loss."""

    @property
    def axes(self) -> Sequence[Floats]:
        """One coordinate array an axis of `values`."""

    @property
    def stderr(self) -> Floats:
        """Standard error of each loss, NaN where none is known."""

    @property
    def interpolation_error(self) -> float:
        """Sup-norm error of the points that were interpolated."""


Source: TypeAlias = Mapped | ArrayLike


@dataclass(frozen=True, eq=False)
class Field:
    """A scalar field on a grid.

    Attributes:
        values: float64, any shape of one dimension or more; +inf at the walls.
        finite: bool, same shape: False at the walls.
        stderr: standard error of each value, same shape, or None where none is known.
        interpolation_error: sup-norm error of interpolated values, in units of `values`.
        errors: (replicates, finite points) errors of whole maps, or None.
    """

    values: Floats
    finite: Bools
    stderr: Floats | None = None
    interpolation_error: float = 0.0
    errors: Floats | None = None

    @property
    def excluded(self) -> int:
        """The number of walls: points whose value is not finite."""
        return int(self.finite.size - np.count_nonzero(self.finite))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest finite value."""
        kept = self.values[self.finite]
        return float(kept.min()), float(kept.max())


def read_field(source: Source, replicates: ArrayLike | None = None) -> Field:
    """Read a landscape, an array or a tensor.

    Points whose value is NaN or infinite become walls: they belong to no sublevel set.

    Args:
        source: a landscape, or anything that numpy reads as an array of real numbers with
            at least one dimension. Not modified.
        replicates: maps that other examples might have given, (count, ...); None takes an
            attribute of that name where the landscape has one.

    Returns:
        The field, in float64.

    Raises:
        ArgumentError: not an array of real numbers, an array without dimensions, or
            replicates on another grid.
        DataError: no finite value in it.
        NonFiniteError: replicates that are not finite where the map is.
    """
    mapped = isinstance(source, Mapped)
    values = _as_floats("landscape", source.values if isinstance(source, Mapped) else source)
    finite = np.isfinite(values)
    if not finite.any():
        raise DataError(
            f"`landscape` must hold at least one finite value; got {values.size} points, all "
            "NaN or infinite; check the loss at the centre and the span."
        )
    values = np.where(finite, values, np.inf)
    maps = getattr(source, "replicates", None) if replicates is None else replicates
    errors = None if maps is None else _replicate_errors(maps, values, finite)
    if not mapped:
        return Field(values, finite, errors=errors)
    stderr = _as_floats("landscape.stderr", source.stderr)  # type: ignore[union-attr]
    error = float(source.interpolation_error)  # type: ignore[union-attr]
    return Field(values, finite, stderr, error, errors)


def _as_floats(argument: str, source: Any) -> Floats:
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        # numpy has no bfloat16 and no sparse layout.
        source = source.to_dense()
        source = (source.double() if source.is_floating_point() else source).numpy()
    try:
        array = np.asarray(source)
    except ValueError:
        raise ArgumentError(f"`{argument}` must have rows of one length.") from None
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ArgumentError(
            f"`{argument}` must be an array of real numbers with at least one dimension; "
            f"got dtype {array.dtype} and shape {array.shape}."
        )
    return array.astype(np.float64)


def _replicate_errors(replicates: ArrayLike, values: Floats, finite: Bools) -> Floats:
    maps = real_array("replicates", replicates)
    if maps.ndim < 1 or maps.shape[1:] != values.shape or len(maps) == 0:
        raise ArgumentError(
            "`replicates` must be maps on the grid of the landscape, of shape (count, "
            f"{', '.join(map(str, values.shape))}); got {maps.shape}."
        )
    errors = maps[:, finite] - values[finite]
    bad = int(np.count_nonzero(~np.isfinite(errors).all(axis=0)))
    if bad:
        raise NonFiniteError(
            f"`replicates` must be finite where the landscape is; got {bad} points that are "
            "not; interpolate them as the landscape itself was."
        )
    return np.asarray(errors)
