"""What a filtration starts from: numbers on a grid, which are finite, and their error."""

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
    """What topology reads of a landscape; any object with these attributes will do.

    Four more are read where they are there: `count`, how many units (examples, batches) the
    standard errors come from; `leverage`, the largest share of the variance at each point
    that one unit carries; `computed`, False where a value is interpolated; `rounding`, a
    bound on the rounding error of a value. Without `count` the standard errors are taken as
    known exactly (normal quantiles); without `leverage` no unit is taken to stand out.
    """

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
_MAPPED = ("values", "axes", "stderr", "interpolation_error")


@dataclass(frozen=True, eq=False)
class Field:
    """A scalar field on a grid.

    Attributes:
        values: float64, any shape of one dimension or more; +inf where it is not finite.
        finite: bool, same shape: False where it is not finite.
        stderr: standard error of each value, same shape, or None where none is known.
        interpolation_error: sup-norm error of interpolated values, in units of `values`.
        errors: (replicates, finite points) errors of whole maps, or None.
        bound: stated bound on the error of every value, or NaN where none is stated.
        rounding: bound on the rounding error of every value.
        count: units that the standard errors come from; infinite where they are exact, below
            two where the number is unknown.
        leverage: largest share of the variance of any point that one unit carries; NaN where
            it is unknown.
        interpolated: bool, same shape: True where a value was interpolated; None: nowhere.
        axes: one coordinate array an axis; empty for plain arrays.
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
        """The number of points whose value is not finite."""
        return int(self.finite.size - np.count_nonzero(self.finite))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest finite value."""
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
    whole = bool(finite.all())
    if not (whole or finite.any()) or not values.size:
        raise DataError(
            f"`landscape` must hold at least one finite value; got {values.size} points, all "
            "NaN or infinite; check the loss at the center and the span."
        )
    _check_error(error, mapped=mapped)
    largest = float(np.abs(values if whole else values[finite]).max())
    values = values if whole else np.where(finite, values, np.inf)
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
    # As isinstance with the protocol, which takes longer than the bars of a small map.
    return all(hasattr(source, name) for name in _MAPPED)


def _check_error(error: Any, *, mapped: bool) -> None:
    if error is not None and mapped:
        raise ArgumentError(
            f"`error` is for arrays; got {error!r} with a landscape, which brings its own."
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
        interpolation_error=_at_least_zero("interpolation_error", source.interpolation_error),
        rounding=_at_least_zero("rounding", rounding),
        count=_at_least_zero("count", getattr(source, "count", np.inf)),
        leverage=_largest_leverage(source, field, interpolated),
        interpolated=interpolated,
        axes=_axes(source.axes, shape),
    )


def _on_grid(name: str, source: Any, shape: tuple[int, ...]) -> Floats:
    array = _as_floats(f"landscape.{name}", source)
    if array.shape != shape or (array < 0).any():
        raise DataError(
            f"`landscape.{name}` must hold one number >= 0 (or NaN) a value, of shape {shape}; "
            f"got shape {array.shape}, {int((array < 0).sum())} below 0."
        )
    return array


def _at_least_zero(name: str, number: Any) -> float:
    if not is_number(number) or float(number) < 0:
        raise DataError(
            f"`landscape.{name}` must be a number >= 0, or NaN where it is unknown; "
            f"got {number!r}."
        )
    return float(number)


def _axes(axes: Any, shape: tuple[int, ...]) -> tuple[Floats, ...]:
    steps = axes if isinstance(axes, tuple | list) else ()
    found = tuple(_as_floats("landscape.axes", axis) for axis in steps)
    if [axis.shape for axis in found] != [(points,) for points in shape]:
        raise DataError(
            f"`landscape.axes` must hold one row of coordinates an axis, of {shape} points; "
            f"got {[axis.shape for axis in found]}."
        )
    return found


def _largest_leverage(source: Mapped, field: Field, interpolated: Bools | None) -> float:
    leverage = getattr(source, "leverage", 0.0)
    if leverage is None:
        return float("nan")
    if is_number(leverage):
        return float(leverage)
    shares = _on_grid("leverage", leverage, field.values.shape)
    where = field.finite if interpolated is None else field.finite & ~interpolated
    # NaN stays NaN: what is unknown anywhere is unknown for the map.
    return float(shares[where].max(initial=0.0))


def _unit_roundoff(source: Any) -> float:
    # Half the distance of 1 to the next number of this kind; whole numbers are exact.
    kind: Any = getattr(source, "dtype", None)
    if hasattr(source, "detach"):
        import torch

        return torch.finfo(kind).eps / 2 if kind.is_floating_point else 0.0
    kind = np.asarray(source).dtype if kind is None else np.dtype(kind)
    return float(np.finfo(kind).eps) / 2 if kind.kind == "f" else 0.0


def without_mask(source: Any) -> Any:
    """Masked entries of a numpy array as NaN; anything else as it is."""
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
        raise ArgumentError(f"`{argument}` must have rows of one length.") from None
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
            "not; interpolate them as the landscape itself was."
        )
    return np.asarray(errors)
