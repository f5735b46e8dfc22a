"""Scalar fields on grids: values, which of them are finite, and their errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeGuard, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, check_number, is_number
from lossatlas.errors import ArgumentError, DataError, NonFiniteError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

# "full": all 3^d - 1 neighbors touch. "axis": the 2d along the axes.
Connectivity = Literal["full", "axis"]
CONNECTIVITIES: tuple[str, ...] = get_args(Connectivity)


@runtime_checkable
class Mapped(Protocol):
    """The attributes that topology reads from a landscape; any object with them works.

    Four more are optional: `count`, the number of units (examples, batches) behind the standard
    errors; `leverage`, the largest share of the variance at each point that one unit
    contributes; `computed`, False where a value is interpolated; `rounding`, a bound on the
    rounding error of a value. Without `count` the standard errors are treated as exact (normal
    quantiles); without `leverage` no unit is assumed to dominate.
    """

    @property
    def values(self) -> Floats:
        """Losses on the grid; non-finite where there is no loss."""

    @property
    def axes(self) -> Sequence[Floats]:
        """One coordinate array per axis of `values`."""

    @property
    def stderr(self) -> Floats:
        """Standard error of each loss, NaN if unknown."""

    @property
    def interpolation_error(self) -> float:
        """Sup-norm error of interpolated points."""


Source: TypeAlias = Mapped | ArrayLike
_MAPPED = ("values", "axes", "stderr", "interpolation_error")


@dataclass(frozen=True, eq=False)
class Field:
    """A scalar field on a grid.

    Attributes:
        values: float64, at least one dimension; +inf where not finite.
        finite: bool, same shape: False where not finite.
        stderr: standard error of each value, same shape, or None if unknown.
        interpolation_error: sup-norm error of interpolated values, in units of `values`.
        errors: (replicates, finite points) errors of whole maps, or None.
        bound: given bound on the error of every value, or NaN if none is given.
        rounding: bound on the rounding error of every value.
        count: number of units behind the standard errors; infinite if they are exact, below two
            if the number is unknown.
        leverage: largest share of the variance of any point that one unit contributes; NaN if
            unknown.
        interpolated: bool, same shape: True where a value was interpolated; None if nowhere.
        axes: one coordinate array per axis; empty for plain arrays.
    """

    values: Floats
    finite: Bools
    stderr: Floats | None = None
    interpolation_error: float = 0.0
    errors: Floats | None = None
    bound: float = float("nan")
    rounding: float = 0.0
    count: float = float("inf")
    leverage: float = 0.0
    interpolated: Bools | None = None
    axes: tuple[Floats, ...] = ()

    @property
    def excluded(self) -> int:
        """Number of points without a finite value."""
        return int(self.finite.size - np.count_nonzero(self.finite))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest finite value."""
        low, high = float(self.values.min()), float(self.values.max())
        return low, high if high < np.inf else float(self.values[self.finite].max())


def read_field(
    source: Source,
    replicates: ArrayLike | None = None,
    error: float | None = None,
    units: int | None = None,
) -> Field:
    """Read a landscape, an array or a tensor."""
    mapped = _is_mapped(source)
    values = _as_floats("landscape", source.values if _is_mapped(source) else source)
    finite = np.isfinite(values)
    all_finite = bool(finite.all())
    if not (all_finite or finite.any()) or not values.size:
        raise DataError(
            f"`landscape` must contain at least one finite value; got {values.size} points, "
            "all NaN or infinite; check the loss at the center and the span."
        )
    _check_error(error, mapped=mapped)
    largest = float(np.abs(values if all_finite else values[finite]).max())
    values = values if all_finite else np.where(finite, values, np.inf)
    maps = getattr(source, "replicates", None) if replicates is None else replicates
    errors = None if maps is None else _replicate_errors(maps, values, finite)
    _check_units(units, errors)
    if _is_mapped(source):
        field = _with_errors(Field(values, finite, errors=errors), source, largest)
        return field if units is None else replace(field, count=float(units))
    unknown = errors is not None or error is None
    return Field(
        values,
        finite,
        errors=errors,
        bound=float("nan") if error is None else float(error),
        rounding=_unit_roundoff(source) * largest,
        count=float("inf") if not unknown else float("nan") if units is None else float(units),
    )


def _is_mapped(source: Any) -> TypeGuard[Mapped]:
    # isinstance with the protocol takes longer than the bars of a small map.
    return all(hasattr(source, name) for name in _MAPPED)


def _check_error(error: Any, *, mapped: bool) -> None:
    if error is not None and mapped:
        raise ArgumentError(
            f"`error` is for arrays; got {error!r} with a landscape, which has its own errors."
        )
    if error is not None:
        check_number("error", error, 0)


def _check_units(units: Any, errors: Floats | None) -> None:
    if units is None:
        return
    check_at_least("units", units, 2)
    if errors is None:
        raise ArgumentError(
            f"`units` counts the examples behind `replicates`; got {units!r} without them."
        )


def _with_errors(field: Field, source: Mapped, largest: float) -> Field:
    shape = field.values.shape
    computed = getattr(source, "computed", None)
    rounding = getattr(source, "rounding", _unit_roundoff(source.values) * largest)
    interpolated = None
    if computed is not None:
        interpolated = _on_grid("computed", computed, shape) == 0
    return replace(
        field,
        stderr=_on_grid("stderr", source.stderr, shape),
        interpolation_error=_nonnegative("interpolation_error", source.interpolation_error),
        rounding=_nonnegative("rounding", rounding),
        count=_nonnegative("count", getattr(source, "count", np.inf)),
        leverage=_largest_leverage(source, field, interpolated),
        interpolated=interpolated,
        axes=_axes(source.axes, shape),
    )


def _on_grid(name: str, source: Any, shape: tuple[int, ...]) -> Floats:
    array = _as_floats(f"landscape.{name}", source)
    if array.shape != shape or (array < 0).any():
        raise DataError(
            f"`landscape.{name}` must hold one number >= 0 (or NaN) per value, shape {shape}; "
            f"got shape {array.shape}, {int((array < 0).sum())} below 0."
        )
    return array


def _nonnegative(name: str, number: Any) -> float:
    if not is_number(number) or float(number) < 0:
        raise DataError(
            f"`landscape.{name}` must be a number >= 0, or NaN if unknown; got {number!r}."
        )
    return float(number)


def _axes(axes: Any, shape: tuple[int, ...]) -> tuple[Floats, ...]:
    steps = axes if isinstance(axes, tuple | list) else ()
    axes_read = tuple(_as_floats("landscape.axes", axis) for axis in steps)
    if [axis.shape for axis in axes_read] != [(points,) for points in shape]:
        raise DataError(
            f"`landscape.axes` must hold one array of coordinates per axis, of {shape} points; "
            f"got {[axis.shape for axis in axes_read]}."
        )
    return axes_read


def _largest_leverage(source: Mapped, field: Field, interpolated: Bools | None) -> float:
    leverage = getattr(source, "leverage", 0.0)
    if leverage is None:
        return float("nan")
    if is_number(leverage):
        return float(leverage)
    shares = _on_grid("leverage", leverage, field.values.shape)
    where = field.finite if interpolated is None else field.finite & ~interpolated
    # NaN propagates: a share unknown at one point is unknown for the map.
    return float(shares[where].max(initial=0.0))


def _unit_roundoff(source: Any) -> float:
    # Half the distance from 1 to the next float of this dtype; integers are exact.
    kind: Any = getattr(source, "dtype", None)
    if hasattr(source, "detach"):
        import torch

        return torch.finfo(kind).eps / 2 if kind.is_floating_point else 0.0
    kind = np.asarray(source).dtype if kind is None else np.dtype(kind)
    return float(np.finfo(kind).eps) / 2 if kind.kind == "f" else 0.0


def without_mask(source: Any) -> Any:
    """Replace masked entries of a numpy array by NaN; return anything else unchanged."""
    if not isinstance(source, np.ma.MaskedArray) or source.dtype.kind not in "fiub":
        return source
    return np.ma.filled(source.astype(np.float64), np.nan)


def _as_floats(argument: str, source: Any) -> Floats:
    source = without_mask(source)
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        # numpy has no bfloat16 and no sparse layout.
        source = source.to_dense()
        source = (source.double() if source.is_floating_point() else source).numpy()
    try:
        array = np.asarray(source)
    except ValueError:
        raise ArgumentError(f"`{argument}` must have rows of equal length.") from None
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ArgumentError(
            f"`{argument}` must be an array of real numbers with at least one dimension; "
            f"got dtype {array.dtype} and shape {array.shape}."
        )
    return array.astype(np.float64)


def _replicate_errors(replicates: ArrayLike, values: Floats, finite: Bools) -> Floats:
    maps = as_float_array("replicates", without_mask(replicates))
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
            "not; interpolate them as in the landscape."
        )
    return np.asarray(errors)
