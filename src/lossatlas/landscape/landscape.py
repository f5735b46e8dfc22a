"""Landscape: the loss on a grid, with the error of every value."""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.arguments import public
from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError
from lossatlas.io import Provenance
from lossatlas.landscape.figures import map_figures
from lossatlas.landscape.known_values import computed_values, sampling_errors
from lossatlas.landscape.sentences import loss_sentences, sampling_sentences
from lossatlas.plots import grid
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import cut_off, number, percent

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
COUNT = "a count, exact"
DIFFERENCE = "a difference of losses on the same examples, whose covariance is unknown"
_GEOMETRY = "exact geometry, no sampling"
_FILTERS = Reference(
    "map on filter-normalized random directions",
    "H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein. Visualizing the Loss Landscape of "
    "Neural Nets. NeurIPS 2018.",
    "https://arxiv.org/abs/1712.09913",
)


# What the directions of a map are cited for; empty: as `_FILTERS` says.
_PLANE = "map of the loss on a plane"
_DIRECTIONS = {
    "random": "",
    "trajectory": "map on the plane of a training trajectory",
    "eigen": "map on the sharpest directions of the Hessian",
}


@result("landscape", references=(_FILTERS,))
class Landscape(Result):
    """The loss on a grid of a line, plane or box of parameter space.

    Values are indexed `[i, j, k]` by `axes[0][i], axes[1][j], axes[2][k]`.

    Attributes:
        values: mean loss at every point, float64; non-finite where the loss is.
        stderr: standard error of each value, same units: the sampling error, combined at
            interpolated points with the expected interpolation error; NaN if unknown.
        axes: coordinates along each direction, in units of its length.
        labels: name of each direction, such as "random 1".
        computed: True where the loss was evaluated, False where it was interpolated.
        interpolation_error: bound on the largest error of interpolated values, in units of the
            loss, which holds for at least 95 % of maps; 0 if every point was computed.
        interpolation_rms: expected root mean square error of interpolated values.
        held_out: number of computed points predicted from the others to measure both errors.
        metrics: additional quantities on the same grid.
        metric_stderr: their sampling errors; NaN at interpolated points, where the
            interpolation error is not measured.
        landmarks: named rows of coordinates, such as the "trajectory" of training.
        landmark_residuals: distance of each landmark from the plane, as a share of the largest
            distance of a landmark from the origin (0: in the plane).
        landmark_values: loss at each landmark itself, off the plane; NaN if not evaluated.
        unit: sampling unit of the errors, "examples" or "batches".
        count: number of units behind the sampling errors; 0 if unknown.
        leverage: at each computed point, the largest share of the variance that one unit
            contributes (at least 1 / count; 1 if the units do not differ); NaN elsewhere; None
            if unknown.
        rounding: bound on the rounding error of one value in the dtype of the weights.
        engine: how points were evaluated.
        evaluations: number of computed points.
        memory: estimated bytes needed beyond the model and the data.
        seconds: wall time; ignored in comparisons.
        notes: remarks for the reader, in sentences.
        provenance: seed, settings, fingerprints, versions.

    Examples:
        >>> import numpy as np
        >>> axis = np.linspace(-1, 1, 5)
        >>> land = Landscape(
        ...     values=axis**2,
        ...     stderr=np.full(5, 0.01),
        ...     axes=(axis,),
        ...     labels=("random 1",),
        ...     computed=np.ones(5, dtype=bool),
        ... )
        >>> land.minimum, land.range
        ((0.0,), 1.0)
        >>> print(land.estimates()[0])
        lowest loss on the map: 0.000 ± 0.010 loss
    """

    values: Array = quantity("loss")
    stderr: Array = quantity("loss")
    axes: tuple[Array, ...]
    labels: tuple[str, ...]
    computed: NDArray[np.bool_]
    interpolation_error: float = quantity("loss", default=0.0)
    interpolation_rms: float = quantity("loss", default=0.0)
    held_out: int = 0
    metrics: Mapping[str, Array] = field(default_factory=dict)
    metric_stderr: Mapping[str, Array] = field(default_factory=dict)
    landmarks: Mapping[str, Array] = field(default_factory=dict)
    landmark_residuals: Mapping[str, Array] = field(default_factory=dict)
    landmark_values: Mapping[str, Array] = field(default_factory=dict)
    unit: str = "examples"
    count: int = 0
    leverage: Array | None = None
    rounding: float = quantity("loss", default=0.0)
    engine: str = "plain"
    evaluations: int = 0
    memory: int = quantity("bytes", default=0)
    seconds: float = quantity("s", default=0.0, compare=False)
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """True where the loss is finite."""
        return np.isfinite(self.values)

    @property
    def range(self) -> float:
        """Highest minus lowest computed loss."""
        if not self.finite.any():
            return float("nan")
        return float(self.values.flat[self.highest] - self.values.flat[self.lowest])

    @property
    def minimum(self) -> tuple[float, ...]:
        """Coordinates of the lowest computed point."""
        index = np.unravel_index(self.lowest, self.values.shape)
        return tuple(float(axis[i]) for axis, i in zip(self.axes, index, strict=True))

    @property
    def lowest(self) -> int:
        """Flat index of the lowest computed point; interpolated points are ignored."""
        losses = computed_values(self)
        return int(np.where(np.isnan(losses), np.inf, losses).argmin())

    @property
    def highest(self) -> int:
        """Flat index of the highest computed point."""
        losses = computed_values(self)
        return int(np.where(np.isnan(losses), -np.inf, losses).argmax())

    @public
    def cut(self, axis: int, at: float | None = None) -> "Landscape":
        """Slice the map: a plane of a box, or a line of a plane.

        Args:
            axis: the direction held fixed.
            at: its coordinate, rounded to the nearest grid point; by default that of the lowest
                point of the map.

        Returns:
            A map with one dimension less, without landmarks, which lie off the slice. It
            contains the origin only if the direction is fixed at zero.

        Raises:
            ArgumentError: there is no such direction, or the map is a line.
        """
        if self.values.ndim < 2 or axis not in range(self.values.ndim):
            raise ArgumentError(
                f"`axis` must be 0 to {self.values.ndim - 1}, for a map of at least two "
                f"dimensions; got {axis!r}."
            )
        if at is not None and not is_number(at):
            raise ArgumentError(f"`at` must be a coordinate; got {at!r}.")
        coordinate = self.minimum[axis] if at is None else at
        index = int(np.abs(self.axes[axis] - coordinate).argmin())

        def taken(array: Any) -> Any:
            return None if array is None else np.asarray(np.take(array, index, axis))

        remaining = [k for k in range(self.values.ndim) if k != axis]
        # No landmark says that a map lies around its origin; this one may not hold it.
        has_origin = self.axes[axis][index] == 0 and not self.landmarks
        arrays = ("values", "stderr", "computed", "leverage")
        return replace(
            self,
            **{name: taken(getattr(self, name)) for name in arrays},
            metrics={name: taken(values) for name, values in self.metrics.items()},
            metric_stderr={name: taken(values) for name, values in self.metric_stderr.items()},
            axes=tuple(self.axes[k] for k in remaining),
            labels=tuple(self.labels[k] for k in remaining),
            landmarks={} if has_origin else {grid.CENTER: np.empty((0, len(remaining)))},
            landmark_residuals={},
            landmark_values={},
        )

    def to_xarray(self) -> "xr.Dataset":
        """Convert values, errors and metrics to an xarray Dataset.

        Returns:
            A Dataset with dimensions "a", "b", "c" and the coordinates of the grid.
        """
        import xarray as xr

        dims = "abc"[: self.values.ndim]
        arrays = {"loss": self.values, "stderr": self.stderr, "computed": self.computed}
        if self.leverage is not None:
            arrays["loss leverage"] = self.leverage
        arrays |= {name: value for name, value in self.metrics.items() if name not in arrays}
        arrays |= {f"{name} stderr": value for name, value in self.metric_stderr.items()}
        coordinates = dict(zip(dims, self.axes, strict=True))
        return xr.Dataset({key: (tuple(dims), v) for key, v in arrays.items()}, coordinates)

    def cited(self) -> tuple[Reference, ...]:
        """References of the map, depending on its directions."""
        plane = self.provenance.settings.get("plane")
        made = plane if isinstance(plane, Mapping) else {}
        kind = str(made.get("kind", "random"))
        is_plain = kind == "random" and made.get("normalization", "filter") != "filter"
        use = "map on random directions" if is_plain else _DIRECTIONS.get(kind, _PLANE)
        return tuple(
            replace(reference, use=use or reference.use) for reference in self.references
        )

    def estimates(self) -> tuple[Estimate, ...]:
        """Lowest and highest loss, landmarks off the plane, and sampling."""
        return (*self.loss_estimates(), *self.sampling_estimates())

    def loss_estimates(self) -> tuple[Estimate, ...]:
        """Lowest and highest loss, and distances of landmarks from the plane."""
        heights: tuple[Estimate, ...] = ()
        if self.finite.any():
            heights = (
                self.value_at(self.lowest, "lowest loss on the map"),
                self.value_at(self.highest, "highest loss on the map"),
                Estimate(
                    self.range,
                    why_no_error=DIFFERENCE,
                    name="range of the map",
                    unit="loss",
                    meaning="highest minus lowest",
                ),
            )
        return (*heights, *map(_off_plane_estimate, *_residuals(self)))

    def value_at(self, flat: int, name: str) -> Estimate:
        """A value of the map as an estimate.

        Args:
            flat: flat index of the point.
            name: name of the estimate.

        Returns:
            The loss at the point with its standard error, which includes the interpolation
            error at interpolated points, or the reason why it has none.
        """
        index = np.unravel_index(flat, self.values.shape)
        coordinate = ", ".join(
            number(float(axis[i]), 3) for axis, i in zip(self.axes, index, strict=True)
        )
        why = "the map has no standard errors"
        if not self.computed.ravel()[flat]:
            bound = number(self.interpolation_error, 2)
            why = f"interpolated, to within {bound} (95 % bound)"
        value, stderr = (float(a.ravel()[flat]) for a in (self.values, self.stderr))
        return Estimate(
            value,
            stderr,
            samples=self.count,
            sample_unit=self.unit,
            why_no_error=None if np.isfinite(stderr) else why,
            name=name,
            unit="loss",
            meaning=f"at ({coordinate})",
        )

    def sampling_estimates(self) -> tuple[Estimate, ...]:
        """Number of computed points, and the size of the errors."""
        lost, size = int((~self.finite).sum()), " x ".join(map(str, self.values.shape))
        computed = _count(int(self.computed.sum()), "computed points")
        how = f"exact; of {size} points, engine {self.engine}"
        rows = [
            _count(self.values.size, "points on the map"),
            replace(computed, why_no_error=how, is_minor=False),
            _count(int((~self.computed).sum()), "interpolated points"),
            replace(_count(lost, "points that are not finite", "left out"), is_minor=not lost),
            _count(self.evaluations, "evaluations", "all computed points"),
        ]
        return (*rows, *self._interpolation_estimates(), *self._error_estimates())

    def _interpolation_estimates(self) -> tuple[Estimate, ...]:
        if self.computed.all():
            return ()
        why = f"measured on {self.held_out:,} points, each predicted from the others"
        share = ""
        if self.range > 0:
            share = f", {percent(self.interpolation_error / self.range)} of the range"
        largest = "interpolation error, largest"
        bound = _minor(self.interpolation_error, largest, why, f"95 % bound{share}")
        return (
            replace(bound, is_minor=False),
            _minor(self.interpolation_rms, "interpolation error, root mean square", why),
        )

    def _error_estimates(self) -> tuple[Estimate, ...]:
        errors = sampling_errors(self)
        if not errors.size:
            return ()
        why = "summarizes the error bars of the map"
        return (
            _minor(float(np.median(errors)), "standard error, median", why),
            _minor(float(errors.max()), "standard error, largest", why),
        )

    def details(self) -> dict[str, Any]:
        """Points, ranges and labels of the axes, and how the values were computed."""
        return {
            "points": self.values.shape,
            "ranges": [(axis[0], axis[-1]) for axis in self.axes],
            "directions": self.labels,
            "computed": self.computed.sum(),
            "interpolation_error": self.interpolation_error,
            "non_finite": (~self.finite).sum(),
            "engine": self.engine,
        }

    def sentences(self) -> tuple[str, ...]:
        """What the map shows, and how accurate it is."""
        return (*self.loss_sentences(), *self.sampling_sentences())

    def loss_sentences(self) -> tuple[str, ...]:
        """Where the loss is lowest, its range, and where it is not finite."""
        return loss_sentences(self)

    def sampling_sentences(self) -> tuple[str, ...]:
        """Size of the sampling errors, and what was interpolated."""
        return sampling_sentences(self)

    def figures(self, tree: grid.Tree | None = None) -> tuple[Figure, ...]:
        """Surface, contour map and standard errors of a plane; a line; slices of a box.

        Args:
            tree: the merge tree of the map, whose minima are marked and linked. Without it only
                the lowest point is marked.

        Returns:
            The figures; none for maps of more than three dimensions.
        """
        return map_figures(self, tree)


def _count(value: int, name: str, meaning: str = "") -> Estimate:
    return Estimate(float(value), why_no_error=COUNT, name=name, meaning=meaning, is_minor=True)


def _minor(value: float, name: str, why: str, meaning: str = "") -> Estimate:
    return Estimate(
        value, why_no_error=why, name=name, unit="loss", meaning=meaning, is_minor=True
    )


def _residuals(land: Landscape) -> tuple[list[str], list[float]]:
    residuals = land.landmark_residuals
    worst = [
        float(np.max(value[np.isfinite(value)], initial=0.0)) for value in residuals.values()
    ]
    return list(residuals), worst


def _off_plane_estimate(name: str, worst: float) -> Estimate:
    return Estimate(
        100 * worst,
        why_no_error=_GEOMETRY,
        name=f"{cut_off(name, 40)}: farthest off the plane",
        unit="%",
        meaning="share of its distance from the weights",
        is_minor=True,
    )
