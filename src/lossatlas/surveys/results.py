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
from lossatlas.text import cut_off, with_ends, with_error
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
        loss_range: loss at the highest computed point of the map minus that at the lowest, on
            the same examples; its interval holds for all pairs of points at once. None where
            it was not measured.
        change: loss at the weights minus that at the first checkpoint of a training, on the
            same examples; None where it was not measured.
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
    loss_range: Estimate | None = None
    change: Estimate | None = None

    def __repr__(self) -> str:
        names = cut_off(", ".join(self.findings) or "none", 160)
        loss = with_error(self.loss.value, self.loss.stderr)
        size = " x ".join(map(str, self.landscape.values.shape))
        return (
            f"<Survey of {cut_off(self.title) or 'a model'}: loss {loss}, "
            f"{size} map, {self.tree.counts.short}; "
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
        map_ = (*self.map_estimates(), *self.landscape.sampling_estimates())
        found = (each for one in self.findings.values() for each in one.estimates())
        return (
            *self.at_weights,
            *self.tree.estimates(),
            *self.diagram.estimates(),
            *map_,
            *found,
        )

    def map_estimates(self) -> tuple[Estimate, ...]:
        """Heights of the map; its range with the paired error where that was measured."""
        paired = {} if self.loss_range is None else {self.loss_range.name: self.loss_range}
        return tuple(paired.get(e.name, e) for e in self.landscape.loss_estimates())

    def cited(self) -> tuple[Reference, ...]:
        """The papers of every part, each use of them once."""
        papers = {each.use: each for part in self._parts() for each in part.cited()}
        papers |= {r.use: r for one in self.findings.values() for r in one.about.references}
        return tuple(papers.values())

    @property
    def at_weights(self) -> tuple[Estimate, ...]:
        """The loss and the metrics at the weights, and paired differences from them."""
        own = {"loss": self.loss, **self.metrics}
        paired = (each for each in (self.lowest, self.change) if each is not None)
        return (*(_at_weights(name, found) for name, found in own.items()), *paired)

    def sentences(self) -> tuple[str, ...]:
        """Whether the weights are at chance, what every part says, and what is not measured."""
        others = (self.diagram, self.landscape, *self.findings.values())
        said = (sentence for part in others for sentence in part.sentences())
        return (*alerts(self), *self.basin_sentences(), *said, *self.unavailable)

    def headline(self) -> str:
        """How many basins there are and how sure that is; whether the map is flat.

        A map whose range is within the bound on its errors is called flat only where the
        paired difference of its highest and lowest loss is within its error too.

        Returns:
            One sentence.
        """
        return self._within_error() or self.tree.headline()

    def basin_sentences(self) -> tuple[str, ...]:
        """The headline, and what else the merge tree says."""
        return (self.headline(), *self.tree.sentences()[1:])

    def basin_answer(self) -> tuple[str, str]:
        """Whether the map is one basin, and "sure" where that is beyond the errors.

        Returns:
            The answer, and "sure" or "": never certain where the headline says it is not.
        """
        if self._within_error():
            return "not known: the map is within its error", ""
        return self.tree.counts.answer()

    def _within_error(self) -> str:
        found, counts = self.loss_range, self.tree.counts
        is_known = found is not None and found.why_no_error is None
        if found is None or not is_known or counts.is_constant or not counts.is_within_error:
            return ""
        low, high = found.interval()
        value, ends = with_ends(found.value, low, high)
        same = f"on the same {found.sample_unit}"
        if low <= 0:
            return (
                "Flat within its error: the highest and the lowest computed loss differ by "
                f"{value} {same}, 95 % interval {ends} for the largest of all differences."
            )
        return (
            f"The losses on this map range over {value} {same}, 95 % interval {ends}: it is "
            "not flat, but which basins are certain takes more examples than these."
        )

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
            *self.diagram.figures(scale_of(self.landscape.values), self.tree.open_births),
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
        tree, diagram, _, *instruments = (part.rows() for part in self._parts())
        heights = (*self.map_estimates(), *self.landscape.sampling_estimates())
        land = [estimate_row(each) for each in heights if not each.is_minor]
        # Both are judged by one threshold.
        known = {name for name, *_ in tree}
        bars = [row for row in diagram if row[0] not in known]
        own = [estimate_row(each) for each in self.at_weights]
        return [*own, *tree, *bars, *land, *(row for rows in instruments for row in rows)]

    def _parts(self) -> tuple[Result, ...]:
        return (self.tree, self.diagram, self.landscape, *self.findings.values())


def _at_weights(name: str, estimate: Estimate) -> Estimate:
    return replace(estimate, name=f"{name} at the weights", meaning="mean over the data")
