"""Landscape: a sampled piece of a loss landscape, with what is known about every value."""

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
        values: mean loss at every point, float64; not finite where the loss is not.
        stderr: standard error of each value, same units: its sampling error, and at
            interpolated points the expected error of interpolation with it; NaN where there
            is none.
        axes: coordinates along each direction, in lengths of that direction.
        labels: what each direction is, as in "random 1".
        computed: True where the loss was evaluated, False where it was interpolated.
        interpolation_error: a bound on the largest error of interpolated values, in units of
            the loss, which holds on at least 95 % of maps; 0 where every point was computed.
        interpolation_rms: the expected root mean square error of interpolated values.
        held_out: how many computed points were each predicted from the others to measure both.
        metrics: further quantities on the same grid.
        metric_stderr: their sampling errors; NaN at interpolated points, where the error of
            interpolation is not measured.
        landmarks: named rows of coordinates, such as the "trajectory" of training.
        landmark_residuals: for each landmark, how far it lies off the grid's plane, as a share
            of the longest distance of a landmark from the origin (0: in the plane).
        landmark_values: loss at each landmark itself, off the plane; NaN where not evaluated.
        unit: what sampling errors are over, "examples" or "batches".
        count: how many units the sampling errors come from; 0 where that is unknown.
        leverage: at each computed point, the largest share of the variance that one unit
            carries (1 / count at least; 1 where the units do not differ); NaN elsewhere;
            None where it is unknown.
        rounding: bound on the rounding of one value in the dtype of the weights.
        engine: how points were evaluated.
        evaluations: how many points were computed.
        memory: bytes needed beyond the model and data, as estimated before the start.
        seconds: wall time; not part of equality.
        notes: what a reader should know, in sentences.
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
        """Where the loss is a finite number."""
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
        """Flat index of the lowest computed point: an interpolated one may be none."""
        known = computed_values(self)
        return int(np.where(np.isnan(known), np.inf, known).argmin())

    @property
    def highest(self) -> int:
        """Flat index of the highest computed point."""
        known = computed_values(self)
        return int(np.where(np.isnan(known), -np.inf, known).argmax())

    @public
    def cut(self, axis: int, at: float | None = None) -> "Landscape":
        """A plane of a map of a box, or a line of a map of a plane.

        Args:
            axis: the direction that is held fixed.
            at: its coordinate, taken at the nearest grid point; by default that of the
                lowest point of the map.

        Returns:
            The map of one dimension less, without landmarks: they lie off it. Its origin is
            one where the direction is held at zero.

        Raises:
            ArgumentError: no such direction, or a map of a line.
        """
        if self.values.ndim < 2 or axis not in range(self.values.ndim):
            raise ArgumentError(
                f"`axis` must be one of 0 to {self.values.ndim - 1} of a map of two "
                f"dimensions or more; got {axis!r}."
            )
        if at is not None and not is_number(at):
            raise ArgumentError(f"`at` must be a coordinate; got {at!r}.")
        place = self.minimum[axis] if at is None else at
        index = int(np.abs(self.axes[axis] - place).argmin())

        def taken(array: Any) -> Any:
            return None if array is None else np.asarray(np.take(array, index, axis))

        rest = [k for k in range(self.values.ndim) if k != axis]
        # No landmark says that a map lies around its origin; this one may not hold it.
        has_origin = self.axes[axis][index] == 0 and not self.landmarks
        arrays = ("values", "stderr", "computed", "leverage")
        return replace(
            self,
            **{name: taken(getattr(self, name)) for name in arrays},
            metrics={name: taken(values) for name, values in self.metrics.items()},
            metric_stderr={name: taken(values) for name, values in self.metric_stderr.items()},
            axes=tuple(self.axes[k] for k in rest),
            labels=tuple(self.labels[k] for k in rest),
            landmarks={} if has_origin else {grid.CENTER: np.empty((0, len(rest)))},
            landmark_residuals={},
            landmark_values={},
        )

    def to_xarray(self) -> "xr.Dataset":
        """Values, errors and metrics as a labeled Dataset.

        Returns:
            Dimensions "a", "b", "c" with the coordinates of the grid.
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
        """The papers of a map, cited for the directions that were used."""
        plane = self.provenance.settings.get("plane")
        made = plane if isinstance(plane, Mapping) else {}
        kind = str(made.get("kind", "random"))
        is_plain = kind == "random" and made.get("normalization", "filter") != "filter"
        use = "map on random directions" if is_plain else _DIRECTIONS.get(kind, _PLANE)
        return tuple(replace(each, use=use or each.use) for each in self.references)

    def estimates(self) -> tuple[Estimate, ...]:
        """Heights of the map, what lies off it, how it was sampled."""
        return (*self.loss_estimates(), *self.sampling_estimates())

    def loss_estimates(self) -> tuple[Estimate, ...]:
        """Heights of the map, and how far its landmarks lie off it."""
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
            name: of the estimate.

        Returns:
            The loss there with its standard error, which holds the error of interpolation
            where it was interpolated, or the reason why it has none.
        """
        index = np.unravel_index(flat, self.values.shape)
        place = ", ".join(
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
            meaning=f"at ({place})",
        )

    def sampling_estimates(self) -> tuple[Estimate, ...]:
        """How many points were computed, and how large their errors are."""
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
        """Points, ranges and labels of the axes, and how the values were found."""
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
        """What the map shows, and how well it is known."""
        return (*self.loss_sentences(), *self.sampling_sentences())

    def loss_sentences(self) -> tuple[str, ...]:
        """Where the loss is low, over what it ranges, where it is not finite."""
        return loss_sentences(self)

    def sampling_sentences(self) -> tuple[str, ...]:
        """How large the sampling errors are, and what was interpolated."""
        return sampling_sentences(self)

    def figures(self, tree: grid.Tree | None = None) -> tuple[Figure, ...]:
        """Surface, contour map and standard errors of a plane; a line; a box cut open.

        Args:
            tree: the merge tree of the map: its minima are marked and linked. The lowest
                point alone is marked without it.

        Returns:
            The figures; of maps of more than three dimensions none.
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
