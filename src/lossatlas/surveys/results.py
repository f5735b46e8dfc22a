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
from lossatlas.result import Estimate, Figure, Reference, Result, estimate_row, result
from lossatlas.surveys.alerts import alerts
from lossatlas.text import count, cut_off, with_error
from lossatlas.topology import (
    Diagram,
    MergeTree,
    Resolution,
    barrier_matrix,
    resolution,
    simplify,
)

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
        lowest: loss at the lowest computed point of the map minus that at the weights, on the
            same examples; its interval allows for the lowest of many points being low by
            luck. None where it was not measured.
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
    lowest: Estimate | None = None

    def __repr__(self) -> str:
        basins = count(len(self.tree), "basin")
        names = cut_off(", ".join(self.findings) or "none", 160)
        loss = with_error(self.loss.value, self.loss.stderr)
        size = " x ".join(map(str, self.landscape.values.shape))
        unknown = self.tree.why_unknown
        sure = "certainty unknown" if unknown else f"{self.certain_basins} certain"
        return (
            f"<Survey of {cut_off(self.title) or 'a model'}: loss {loss}, "
            f"{size} map, {basins}, {sure}; "
            f"instruments: {names}>"
        )

    @property
    def spectrum(self) -> Spectrum | None:
        """Extreme eigenvalues and density of the Hessian; None where there are none."""
        spectrum: Spectrum | None = self.part("curvature", "spectrum")
        return spectrum

    @property
    def trace(self) -> Estimate | None:
        """Trace of the Hessian; None where there is none."""
        estimate: Estimate | None = self.part("curvature", "trace")
        return estimate

    def part(self, instrument: str, name: str) -> Any:
        """A result of one instrument.

        Args:
            instrument: as in `findings`.
            name: the part of its results.

        Returns:
            The result; None where the instrument was not chosen or could not measure it.
        """
        finding = self.findings.get(instrument)
        return None if finding is None else finding.results.get(name)

    @property
    def certain_basins(self) -> int:
        """How many certain basins the map has, as its sentences and pages count them.

        Minima on the edge of the map do not count: the loss may go on falling
        outside. 0 where a part of the errors is unknown; `tree.why_unknown` then says which.
        """
        return 0 if self.tree.why_unknown else self.tree.certain_count

    @property
    def resolution(self) -> Resolution:
        """Basins counted under both rules of touching; unequal counts mean too few points."""
        return resolution(self.landscape)

    @property
    def barriers(self) -> Array:
        """Heights of the passes between the basins longer than the threshold, a matrix."""
        return barrier_matrix(simplify(self.tree))

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss and the metrics at the weights, the lowest point, numbers of every part."""
        parts = (each for part in self._parts() for each in part.estimates())
        return (*self._at_weights, *parts)

    def cited(self) -> tuple[Reference, ...]:
        """The papers of every part, each use of them once."""
        papers = {each.use: each for part in self._parts() for each in part.cited()}
        papers |= {r.use: r for one in self.findings.values() for r in one.about.references}
        return tuple(papers.values())

    @property
    def _at_weights(self) -> tuple[Estimate, ...]:
        own = {"loss": self.loss, **self.metrics}
        lowest = () if self.lowest is None else (self.lowest,)
        return (*(_at_weights(name, found) for name, found in own.items()), *lowest)

    def sentences(self) -> tuple[str, ...]:
        """Whether the weights are at chance, what every part says, and what is not measured."""
        said = (sentence for part in self._parts() for sentence in part.sentences())
        return (*alerts(self), *said, *self.unavailable)

    @property
    def unavailable(self) -> tuple[str, ...]:
        """Which instruments could not measure anything, in a sentence."""
        lost = [finding.about.title for finding in self.findings.values() if finding.why_not]
        return (f"Not measured, with the reason below: {', '.join(lost)}.",) if lost else ()

    def figures(self) -> tuple[Figure, ...]:
        """The map with its minima, its topology, and the pictures of every instrument."""
        return (
            *self.landscape.figures(self.tree),
            *self.tree.figures(),
            *self.diagram.figures(scale_of(self.landscape.values)),
            *(figure for finding in self.findings.values() for figure in finding.figures()),
        )

    def details(self) -> dict[str, Any]:
        """Title, time, the map and its topology, and the summary of every instrument."""
        known = not self.tree.why_unknown
        topology = self.tree.details() | self.diagram.details()
        topology |= {
            "certain_basins": self.certain_basins if known else None,
            "under_resolved": self.resolution.under_resolved,
            "barriers": self.barriers.tolist(),
        }
        return {
            "title": self.title,
            "seconds": self.seconds,
            "evaluations": self.landscape.evaluations,
            "grid": self.landscape.details(),
            "topology": topology,
            "instruments": {name: finding.summary() for name, finding in self.findings.items()},
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """The chief numbers of every part as cells of a table.

        Returns:
            See `Result.rows`.
        """
        tree, diagram, land, *instruments = (part.rows() for part in self._parts())
        # Both are judged by one threshold.
        known = {name for name, *_ in tree}
        bars = [row for row in diagram if row[0] not in known]
        own = [estimate_row(each) for each in self._at_weights]
        return [*own, *tree, *bars, *land, *(row for rows in instruments for row in rows)]

    def _parts(self) -> tuple[Result, ...]:
        return (self.tree, self.diagram, self.landscape, *self.findings.values())


def _at_weights(name: str, estimate: Estimate) -> Estimate:
    return replace(estimate, name=f"{name} at the weights", meaning="mean over the data")
