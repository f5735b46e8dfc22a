"""Survey: what the loss around some weights is like, as several instruments found it."""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.curvature import InstrumentResult, Spectrum
from lossatlas.io import Provenance
from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.scale import scale_of
from lossatlas.result import Estimate, Figure, Result, estimate_row, result
from lossatlas.text import count, cut_off, error, number, with_error
from lossatlas.topology import (
    Diagram,
    MergeTree,
    Resolution,
    barrier_matrix,
    certain_basins,
    resolution,
    simplify,
)
from lossatlas.topology.mergetree import NO_SADDLE

Array = NDArray[np.float64]


@result("survey")
class Survey(Result):
    """What a survey found; `lossatlas.write_report` shows it.

    Attributes:
        title: what was surveyed, as in "resnet20 on cifar10". Never trusted as HTML.
        loss: the loss at the weights themselves, with its sampling error.
        landscape: the map around them.
        diagram: persistence of the map's sublevel sets.
        tree: merge tree of the map.
        metrics: further numbers at the weights themselves (accuracy, ...), with their errors.
        findings: what further instruments found, by their names; empty where none was chosen.
        seconds: wall time of the whole survey; does not count for equality.
        notes: what a reader should know, in sentences.
        provenance: seed, settings, fingerprints, versions.
        checked: what was checked before anything was measured, and to how much; a sentence each
            (see `lossatlas.check`).
    """

    title: str
    loss: Estimate
    landscape: Landscape
    diagram: Diagram
    tree: MergeTree
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    findings: Mapping[str, InstrumentResult] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    checked: tuple[str, ...] = ()

    def __repr__(self) -> str:
        basins = count(len(self.tree), "basin")
        found = cut_off(", ".join(self.findings) or "none", 160)
        loss = with_error(self.loss.value, self.loss.stderr)
        size = " x ".join(map(str, self.landscape.values.shape))
        unknown = self.tree.why_unknown
        sure = "certainty unknown" if unknown else f"{self.certain_basins} certain"
        return (
            f"<Survey of {cut_off(self.title) or 'a model'}: loss {loss}, "
            f"{size} map, {basins}, {sure}; "
            f"instruments: {found}>"
        )

    @property
    def spectrum(self) -> Spectrum | None:
        """Extreme eigenvalues and density of the Hessian; None where there are none."""
        found: Spectrum | None = self.part("curvature", "spectrum")
        return found

    @property
    def trace(self) -> Estimate | None:
        """Trace of the Hessian; None where there is none."""
        found: Estimate | None = self.part("curvature", "trace")
        return found

    def part(self, instrument: str, name: str) -> Any:
        """A result of one instrument.

        Args:
            instrument: as in `findings`.
            name: the part of its results.

        Returns:
            The result; None where the instrument was not chosen or could not measure it.
        """
        found = self.findings.get(instrument)
        return None if found is None else found.results.get(name)

    @property
    def certain_basins(self) -> int:
        """How many basins the map's errors leave standing, judged place by place.

        0 where a part of the errors is unknown; `tree.why_unknown` then says which.
        """
        # The tree knows by what rule it was judged.
        if self.tree.why_unknown:
            return 0
        return len(certain_basins(self.landscape, min_share=None))

    @property
    def resolution(self) -> Resolution:
        """Basins counted under both rules of touching; unequal counts mean too few points."""
        return resolution(self.landscape)

    @property
    def barriers(self) -> Array:
        """Heights of the passes between the basins longer than the threshold, a matrix."""
        return barrier_matrix(simplify(self.tree))

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss and the metrics at the weights, then the numbers of every part."""
        parts = (each for part in self._parts() for each in part.estimates())
        return (*self._at_weights, *parts)

    @property
    def _at_weights(self) -> tuple[Estimate, ...]:
        own = {"loss": self.loss, **self.metrics}
        return tuple(_at_weights(name, found) for name, found in own.items())

    def sentences(self) -> tuple[str, ...]:
        """What every part says, and which instruments could not measure anything."""
        said = (sentence for part in self._parts() for sentence in part.sentences())
        return (*said, *self.unavailable)

    @property
    def unavailable(self) -> tuple[str, ...]:
        """Which instruments could not measure anything, in a sentence."""
        lost = [found.about.title for found in self.findings.values() if found.why_not]
        return (f"Not measured, with the reason below: {', '.join(lost)}.",) if lost else ()

    def figures(self) -> tuple[Figure, ...]:
        """The map with its minima, its topology, and the pictures of every instrument."""
        return (
            *self.landscape.figures(self.tree),
            *self.tree.figures(),
            *self.diagram.figures(scale_of(self.landscape.values)),
            *(figure for found in self.findings.values() for figure in found.figures()),
        )

    def summary(self) -> dict[str, Any]:
        """The whole survey for JSON.

        Returns:
            Title, loss, metrics, grid, topology, instruments (see `InstrumentResult.summary`),
            sentences, notes, checks, seconds, evaluations. NaN and infinity are None.
        """
        own = {"title": self.title, "seconds": self.seconds}
        own |= {"evaluations": self.landscape.evaluations}
        own |= {"grid": self._grid(), "topology": self._topology()}
        own |= {"instruments": {name: f.summary() for name, f in self.findings.items()}}
        return super().summary() | own

    def _grid(self) -> dict[str, Any]:
        land = self.landscape
        return {
            "points": list(land.values.shape),
            "ranges": [[float(axis[0]), float(axis[-1])] for axis in land.axes],
            "directions": list(land.labels),
            "computed": int(land.computed.sum()),
            "interpolation_error": land.interpolation_error,
            "non_finite": int((~land.finite).sum()),
            "engine": land.engine,
        }

    def _topology(self) -> dict[str, Any]:
        diagram, why = self.diagram, self.diagram.why_unknown
        rarest = self.tree.rarest_share
        return {
            "minima": len(self.tree),
            "bars": [_bar(diagram, row) for row in range(len(diagram))],
            "smad": rise if np.isfinite(rise := self.tree.mean_rise) else None,
            "certain_bars": None if why else int(diagram.certain.sum()),
            "threshold": None if why else diagram.threshold,
            "why_unknown": why or None,
            "rarest_share": None if np.isnan(rarest) else rarest,
            "connectivity": diagram.connectivity,
            "certain_basins": None if why else self.certain_basins,
            "under_resolved": self.resolution.under_resolved,
            "barriers": self.barriers.tolist(),
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """The chief numbers as cells of a table.

        Returns:
            See `Result.rows`.
        """
        land, diagram = self.landscape, self.diagram
        share = land.evaluations / land.values.size
        size = " x ".join(map(str, land.values.shape))
        held = f"95 % bound, from leaving out each of {land.held_out} points"
        lost = count(int((~land.finite).sum()), "point") + " without a finite loss"
        touch = f"{diagram.connectivity} connectivity"
        touch += "; under-resolved" if self.resolution.under_resolved else ""
        basins = diagram.dimensions == 0
        sure = f"{int(diagram.certain[basins].sum())} certain (the deepest, and those deeper "
        sure += f"than {diagram.threshold:.2g})"
        unknown = f"certainty unknown: {diagram.why_unknown}"
        return [
            *map(estimate_row, self._at_weights),
            ("map", size, f"{land.evaluations} computed ({share:.0%}), engine {land.engine}"),
            (
                "interpolation error",
                f"{land.interpolation_error:.2g}",
                held if land.held_out else "every point was computed",
            ),
            ("range of the loss", number(land.range, 3), f"{self._range_error}{lost}"),
            ("minima", str(len(self.tree)), touch),
            ("basins", str(int(basins.sum())), unknown if diagram.why_unknown else sure),
            self._smad_row(),
            *(line for found in self.findings.values() for line in found.rows()),
        ]

    def _smad_row(self) -> tuple[str, str, str]:
        if not self.tree.saddles.size:
            return "smad", "none", NO_SADDLE
        remark = "mean rise to a saddle, of all minima; no error: their number is uncertain"
        return "smad", number(self.tree.smad(), 3), remark

    # Both ends may be wrong by the bound on one value; the threshold is twice that.
    @property
    def _range_error(self) -> str:
        known = not self.diagram.why_unknown and self.tree.threshold > 0
        return f"± {error(self.tree.threshold)} (95 % bound), " if known else ""

    def _parts(self) -> tuple[Result, ...]:
        return (self.tree, self.diagram, self.landscape, *self.findings.values())


def _at_weights(name: str, found: Estimate) -> Estimate:
    return replace(found, name=f"{name} at the weights", meaning="mean over the data")


def _bar(diagram: Diagram, row: int) -> dict[str, Any]:
    places = diagram.birth_places[row], diagram.death_places[row]
    born, dies = (place.tolist() if np.isfinite(place).all() else None for place in places)
    dies_at = float(diagram.deaths[row])
    return {
        "dimension": int(diagram.dimensions[row]),
        "birth": float(diagram.births[row]),
        "death": dies_at if np.isfinite(dies_at) else None,
        "certain": None if diagram.why_unknown else bool(diagram.certain[row]),
        "birth_place": born,
        "death_place": dies,
    }
