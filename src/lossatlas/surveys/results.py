"""Survey: what a stretch of loss landscape is like, as several instruments found it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.curvature import Spectrum
from lossatlas.landscape.landscape import Landscape
from lossatlas.result import Estimate
from lossatlas.store import Provenance
from lossatlas.store.records import from_dataset, to_dataset
from lossatlas.surveys.instrument_result import InstrumentResult
from lossatlas.text import count, cut_off, with_error
from lossatlas.topology import (
    Diagram,
    MergeTree,
    Resolution,
    barrier_matrix,
    certain_basins,
    resolution,
    simplify,
)

Array = NDArray[np.float64]


@store.kind("survey")
@dataclass(frozen=True, eq=False)
class Survey:
    """The findings of a survey; `lossatlas.write_report` shows them.

    Attributes:
        title: what was surveyed, as in "resnet20 on cifar10". Never trusted as HTML.
        loss: the loss at the weights themselves, with its sampling error.
        landscape: the map around them.
        diagram: persistence of the map's sublevel sets.
        tree: merge tree of the map.
        metrics: further numbers at the weights themselves (accuracy, ...), with their errors.
        findings: what further instruments found, by their names; empty where none was chosen.
        seconds: wall time of the whole survey.
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
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    checked: tuple[str, ...] = ()

    def __repr__(self) -> str:
        basins = count(len(self.tree), "basin")
        found = ", ".join(self.findings) or "none"
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

    def save(self, path: str | Path) -> Path:
        """Write everything to one netCDF file; `lossatlas.load` reads it back.

        Args:
            path: where, by convention `*.nc`.

        Returns:
            The path.

        Raises:
            FileError: the place cannot be written.
        """
        return store.save(self, path)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """As groups for the store.

        Returns:
            Group name -> Dataset.
        """
        numbers = {"loss": self.loss, **{f"metric:{k}": v for k, v in self.metrics.items()}}
        own = {
            f"number/{k}": to_dataset(value).assign_attrs(name=name)
            for k, (name, value) in enumerate(numbers.items())
        }
        head = xr.Dataset(
            attrs={
                "title": self.title,
                "seconds": self.seconds,
                "notes": list(self.notes),
                "checked": list(self.checked),
                "provenance": self.provenance.to_json(),
                "instruments": list(self.findings),
            }
        )
        parts = {part: getattr(self, part).to_tree() for part in _PARTS}
        parts |= {_FINDING + name: found.to_tree() for name, found in self.findings.items()}
        return {"survey": head} | own | store.nested(parts)

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Survey":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> Dataset.

        Returns:
            An equal survey.
        """
        head = tree["survey"].attrs
        numbers = {
            str(data.attrs["name"]): from_dataset(data)
            for name, data in tree.items()
            if name.startswith("number/")
        }
        parts = {p: kind.from_tree(store.below(tree, p)) for p, kind in _PARTS.items()}
        findings = {
            name: InstrumentResult.from_tree(store.below(tree, _FINDING + name))
            for name in _texts(head["instruments"])
        }
        return cls(
            title=str(head["title"]),
            loss=numbers.pop("loss"),
            metrics={name.removeprefix("metric:"): value for name, value in numbers.items()},
            seconds=float(head["seconds"]),
            notes=_texts(head["notes"]),
            checked=_texts(head.get("checked", ())),
            provenance=Provenance.from_json(str(head["provenance"])),
            findings=findings,
            **parts,
        )


_PARTS: dict[str, Any] = {
    "landscape": Landscape,
    "diagram": Diagram,
    "tree": MergeTree,
}
_FINDING = "finding-"


def _texts(found: Any) -> tuple[str, ...]:
    # A list of one text comes back from a file as the text.
    return (found,) if isinstance(found, str) else tuple(map(str, found))
