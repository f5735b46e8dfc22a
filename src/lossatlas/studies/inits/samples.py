"""Samples: recipes of initializations and the true losses there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.studies.inits.candidate import Candidate, recipes

Array = NDArray[np.float64]


@store.kind("inits-pairs")
@dataclass(frozen=True, eq=False)
class Samples:
    """Points of parameter space with their losses; the points are recipes.

    Attributes:
        candidates: the recipes.
        losses: of the probe, float64, shape (candidates,); NaN or infinite where a loss is.
        provenance: settings, seed, fingerprint of the data.
    """

    candidates: tuple[Candidate, ...]
    losses: Array
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.candidates)

    @property
    def schemes(self) -> NDArray[np.str_]:
        """The scheme of each candidate, shape (candidates,)."""
        return np.array([candidate.scheme for candidate in self.candidates])

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The pairs as labeled arrays."""
        data = xr.Dataset(
            {
                "losses": ("candidate", self.losses),
                "recipe": ("candidate", [c.to_json() for c in self.candidates]),
            },
            attrs={"provenance": self.provenance.to_json()},
        )
        return {"pairs": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Samples":
        """The inverse of `to_tree`."""
        data = tree["pairs"]
        return cls(
            recipes(data["recipe"]),
            np.asarray(data["losses"].values, dtype=np.float64),
            store.Provenance.from_json(data.attrs["provenance"]),
        )
