"""Landscape: a sampled piece of a loss landscape, with what is known about every value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.store import Provenance

Array = NDArray[np.float64]


@store.kind("landscape")
@dataclass(frozen=True)
class Landscape:
    """The loss on a grid of a line, plane or box of parameter space.

    Values are indexed `[i, j, k]` by `axes[0][i], axes[1][j], axes[2][k]`.

    Attributes:
        values: mean loss at every point, float64; not finite where the loss is not.
        stderr: sampling error of each value, same units; NaN where there is none.
        axes: coordinates along each direction, in lengths of that direction.
        labels: what each direction is, as in "random 1".
        computed: True where the loss was evaluated, False where it was interpolated.
        interpolation_error: a bound on the largest error of interpolated values, in units of
            the loss, which holds on at least 95 % of maps; 0 where every point was computed.
        interpolation_rms: the expected root mean square error of interpolated values.
        held_out: how many computed points were each predicted from the others to measure both.
        metrics: further quantities on the same grid.
        metric_stderr: their sampling errors.
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
    """

    values: Array
    stderr: Array
    axes: tuple[Array, ...]
    labels: tuple[str, ...]
    computed: NDArray[np.bool_]
    interpolation_error: float = 0.0
    interpolation_rms: float = 0.0
    held_out: int = 0
    metrics: Mapping[str, Array] = field(default_factory=dict)
    metric_stderr: Mapping[str, Array] = field(default_factory=dict)
    landmarks: Mapping[str, Array] = field(default_factory=dict)
    landmark_residuals: Mapping[str, Array] = field(default_factory=dict)
    landmark_values: Mapping[str, Array] = field(default_factory=dict)
    unit: str = "examples"
    count: int = 0
    leverage: Array | None = None
    rounding: float = 0.0
    engine: str = "plain"
    evaluations: int = 0
    memory: int = 0
    seconds: float = field(default=0.0, compare=False)
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.values.shape))
        seen = self.values[self.finite]
        losses = f"{seen.min():.4g} to {seen.max():.4g}" if seen.size else "nowhere finite"
        return (
            f"<Landscape of {size} points along {', '.join(self.labels)}: loss {losses}, "
            f"{int(self.computed.sum()):,} computed, engine {self.engine}>"
        )

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Where the loss is a finite number."""
        return np.isfinite(self.values)

    @property
    def range(self) -> float:
        """Highest minus lowest finite loss."""
        finite = self.values[self.finite]
        return float(finite.max() - finite.min()) if finite.size else float("nan")

    @property
    def minimum(self) -> tuple[float, ...]:
        """Coordinates of the lowest finite point."""
        lowest = np.where(self.finite, self.values, np.inf).argmin()
        index = np.unravel_index(int(lowest), self.values.shape)
        return tuple(float(axis[i]) for axis, i in zip(self.axes, index, strict=True))

    def save(self, path: str | Path) -> Path:
        """Write to one netCDF file; `lossatlas.load` reads it back.

        Args:
            path: where, by convention `*.nc`.

        Returns:
            The path.

        Raises:
            FileError: the place cannot be written.
        """
        return store.save(self, path)

    def to_xarray(self) -> xr.Dataset:
        """Values, errors and metrics as a labeled Dataset.

        Returns:
            Dimensions "a", "b", "c" with the coordinates of the grid.
        """
        dims = "abc"[: self.values.ndim]
        arrays = {"loss": self.values, "stderr": self.stderr, "computed": self.computed}
        if self.leverage is not None:
            arrays[_LEVERAGE] = self.leverage
        arrays |= {name: value for name, value in self.metrics.items() if name not in arrays}
        arrays |= {f"{name} stderr": value for name, value in self.metric_stderr.items()}
        coordinates = dict(zip(dims, self.axes, strict=True))
        return xr.Dataset({key: (tuple(dims), v) for key, v in arrays.items()}, coordinates)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """As groups for the store.

        Returns:
            Group name -> Dataset.
        """
        grid = replace(self, metrics={}, metric_stderr={}).to_xarray()
        attributes = {name: getattr(self, name) for name in _SCALARS}
        attributes |= {"labels": list(self.labels), "notes": list(self.notes)}
        attributes |= {"count": self.count, "rounding": self.rounding}
        attributes |= {"provenance": self.provenance.to_json()}
        # Names are free text, so they are attributes and not names of groups or variables.
        dims = tuple(grid["loss"].dims)
        metrics = {
            f"metric{k}": xr.Dataset(
                {"value": (dims, value), "stderr": (dims, self.metric_stderr[name])},
                attrs={"name": name},
            )
            for k, (name, value) in enumerate(self.metrics.items())
        }
        marks = {
            f"landmark{k}": xr.Dataset(
                {
                    "coordinates": (("mark", "axis"), value),
                    "residual": ("mark", self.landmark_residuals[name]),
                    "loss": ("mark", self.landmark_values[name]),
                },
                attrs={"name": name},
            )
            for k, (name, value) in enumerate(self.landmarks.items())
        }
        return {"grid": grid.assign_attrs(attributes)} | metrics | marks

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Landscape":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> Dataset.

        Returns:
            An equal landscape.
        """
        grid = tree["grid"]
        marks, metrics = (_named(tree, prefix) for prefix in ("landmark", "metric"))
        return cls(
            values=grid["loss"].to_numpy(),
            stderr=grid["stderr"].to_numpy(),
            axes=tuple(grid[dim].to_numpy() for dim in grid["loss"].dims),
            computed=grid["computed"].to_numpy().astype(bool),
            leverage=grid[_LEVERAGE].to_numpy() if _LEVERAGE in grid else None,
            labels=_strings(grid.attrs["labels"]),
            notes=_strings(grid.attrs["notes"]),
            metrics={name: data["value"].to_numpy() for name, data in metrics.items()},
            metric_stderr={name: data["stderr"].to_numpy() for name, data in metrics.items()},
            landmarks={name: data["coordinates"].to_numpy() for name, data in marks.items()},
            landmark_residuals={
                name: data["residual"].to_numpy() for name, data in marks.items()
            },
            landmark_values={name: data["loss"].to_numpy() for name, data in marks.items()},
            provenance=Provenance.from_json(grid.attrs["provenance"]),
            count=int(grid.attrs.get("count", 0)),
            rounding=float(grid.attrs.get("rounding", 0.0)),
            **{name: kind(grid.attrs[name]) for name, kind in _SCALARS.items()},
        )


_LEVERAGE = "loss leverage"
_SCALARS: dict[str, Any] = {
    "interpolation_error": float,
    "interpolation_rms": float,
    "held_out": int,
    "unit": str,
    "engine": str,
    "evaluations": int,
    "memory": int,
    "seconds": float,
}


def _strings(attribute: Any) -> tuple[str, ...]:
    # netCDF gives back a lone string for a list of one.
    return (attribute,) if isinstance(attribute, str) else tuple(map(str, attribute))


def _named(tree: Mapping[str, xr.Dataset], prefix: str) -> dict[str, xr.Dataset]:
    # Groups come back in any order; their numbers say which came first.
    found = [(int(key.removeprefix(prefix)), key) for key in tree if key.startswith(prefix)]
    return {str(tree[key].attrs["name"]): tree[key] for _, key in sorted(found)}
