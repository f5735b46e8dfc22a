"""What a filtration starts from: numbers on a grid, their walls and their error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.errors import ArgumentError, DataError

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
    """

    values: Floats
    finite: Bools
    stderr: Floats | None = None
    interpolation_error: float = 0.0

    @property
    def excluded(self) -> int:
        """The number of walls: points whose value is not finite."""
        return int(self.finite.size - np.count_nonzero(self.finite))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest finite value."""
        kept = self.values[self.finite]
        return float(kept.min()), float(kept.max())


def read_field(source: Source) -> Field:
    """Read a landscape, an array or a tensor.

    Points whose value is NaN or infinite become walls: they belong to no sublevel set.

    Args:
        source: a landscape, or anything that numpy reads as an array of real numbers with
            at least one dimension. Not modified.

    Returns:
        The field, in float64.

    Raises:
        ArgumentError: not an array of real numbers, or an array without dimensions.
        DataError: no finite value in it.
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
    if not mapped:
        return Field(values, finite)
    stderr = _as_floats("landscape.stderr", source.stderr)  # type: ignore[union-attr]
    error = float(source.interpolation_error)  # type: ignore[union-attr]
    return Field(values, finite, stderr, error)


def _as_floats(argument: str, source: Any) -> Floats:
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        # numpy has no bfloat16.
        source = (source.double() if source.is_floating_point() else source).numpy()
    array = np.asarray(source)
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ArgumentError(
            f"`{argument}` must be an array of real numbers with at least one dimension; "
            f"got dtype {array.dtype} and shape {array.shape}."
        )
    return array.astype(np.float64)
