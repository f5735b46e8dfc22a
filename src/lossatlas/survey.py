"""Survey: what a stretch of loss landscape is like, from several instruments at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray as xr

from lossatlas import store
from lossatlas.landscape.landscape import Landscape
from lossatlas.objective import Evaluation
from lossatlas.store import Provenance
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.persistence import Diagram


@store.kind("survey")
@dataclass(frozen=True)
class Survey:
    """The findings of a survey; `lossatlas.write_report` shows them.

    Attributes:
        title: what was surveyed, as in "resnet20 on parquet:test.parquet". Never trusted as HTML.
        loss: the loss at the weights themselves, with its sampling error.
        landscape: the map around them.
        diagram: persistence of the map's sublevel sets.
        tree: merge tree of the map.
        metrics: further numbers at the weights themselves (accuracy, ...), with their errors.
        seconds: wall time of the whole survey; not part of equality.
        notes: what a reader should know, in sentences.
        provenance: seed, settings, fingerprints, versions.
    """

    title: str
    loss: Evaluation
    landscape: Landscape
    diagram: Diagram
    tree: MergeTree
    metrics: Mapping[str, Evaluation] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
