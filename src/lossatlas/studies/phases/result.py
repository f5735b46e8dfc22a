"""What a study of phases found: measures of every cell, and the phase that they make."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.linalg.estimators import jackknife
from lossatlas.result import Estimate

Array = NDArray[np.float64]

# Measures of a network, and of a network and the next one on the ring of seeds.
OF_SEEDS = ("train loss", "train error", "test error", "largest eigenvalue", "trace")
OF_PAIRS = ("connectivity", "alignment", "distance")
PHASES = ("I", "II", "III", "IV-A", "IV-B")
UNCLEAR = "unclear"
MEANING = {
    "I": "under-fitted and under-sized: high loss, barriers between solutions",
    "II": "under-fitted: high loss, solutions connected by lower ground",
    "III": "under-sized: low loss, barriers between solutions",
    "IV-A": "over-fitted: low loss, connected, outputs differ",
    "IV-B": "generalizing: low loss, connected, outputs alike",
    UNCLEAR: "a measure is missing, or loss and curvature disagree",
}


def ring(seeds: int) -> list[tuple[int, int]]:
    """The pairs of neighbors: each seed with the next, the last with the first.

    Args:
        seeds: how many, at least 2.

    Returns:
        As many pairs as seeds; one for two seeds.
    """
    return [(i, (i + 1) % seeds) for i in range(seeds if seeds > 2 else 1)]


@dataclass(frozen=True)
class Thresholds:
    """Where a measure counts as large. The papers read them off their plots: so should you.

    Attributes:
        loss: training losses above it are high.
        connectivity: below minus this there is a barrier, in units of the loss.
        alignment: outputs are alike from here on.
        eigenvalue: a largest eigenvalue above it is large; a cell whose loss and eigenvalue
            disagree is then "unclear". None leaves curvature out of the rule.
    """

    loss: float = 0.1
    connectivity: float = 0.05
    alignment: float = 0.9
    eigenvalue: float | None = None


@store.kind("phases")
@dataclass(frozen=True, eq=False)
class PhasePlane:
    """Measures over the plane of load and temperature.

    Attributes:
        loads: of the networks (widths), growing.
        temperatures: batch sizes or rates, growing.
        temperature: which of the two, "batch_size" or "lr".
        of_seeds: shape (loads, temperatures, seeds, 5): `OF_SEEDS` of each network.
        of_pairs: shape (loads, temperatures, seeds, 3): `OF_PAIRS` of each network and the
            next one; NaN where there is no pair.
        provenance: settings and fingerprint of the data.
    """

    loads: tuple[int, ...]
    temperatures: tuple[float, ...]
    temperature: str
    of_seeds: Array
    of_pairs: Array
    provenance: store.Provenance = field(default_factory=store.Provenance)

    @property
    def seeds(self) -> int:
        """Networks of each cell."""
        return int(self.of_seeds.shape[2])

    def measure(self, name: str, load: int, temperature: float) -> Estimate:
        """One measure of one cell: mean with a jackknife error over seeds.

        Pairs share networks; leaving a seed out leaves its pairs out, which counts that.

        Args:
            name: one of `OF_SEEDS` or `OF_PAIRS`.
            load: one of `loads`.
            temperature: one of `temperatures`.

        Returns:
            Mean over the networks or pairs; those that diverged make it NaN.

        Raises:
            UnknownNameError: an unknown measure.
        """
        check_one_of("measure", name, (*OF_SEEDS, *OF_PAIRS))
        at = (self.loads.index(load), self.temperatures.index(temperature))
        if name in OF_SEEDS:
            column = self.of_seeds[at][:, OF_SEEDS.index(name)]
            return _over_seeds(column, [(i, i) for i in range(self.seeds)], self.seeds)
        column = self.of_pairs[at][:, OF_PAIRS.index(name)]
        return _over_seeds(column, ring(self.seeds), self.seeds)

    def table(self, name: str) -> tuple[Array, Array]:
        """One measure of all cells.

        Args:
            name: one of `OF_SEEDS` or `OF_PAIRS`.

        Returns:
            (means, standard errors), shape (loads, temperatures).
        """
        found = [[self.measure(name, a, b) for b in self.temperatures] for a in self.loads]
        means = np.array([[one.value for one in row] for row in found])
        return means, np.array([[one.stderr for one in row] for row in found])

    def phases(self, thresholds: Thresholds | None = None) -> NDArray[np.str_]:
        """The phase of each cell.

        Args:
            thresholds: where measures count as large.

        Returns:
            Shape (loads, temperatures), names out of `PHASES` or "unclear"; what they mean
            stands in `MEANING`.
        """
        chosen = thresholds or Thresholds()
        names = ("train loss", "largest eigenvalue", "connectivity", "alignment")
        tables = [self.table(name)[0] for name in names]
        cells = [
            [_phase(chosen, *(float(table[i, j]) for table in tables)) for j in range(columns)]
            for i, columns in enumerate([len(self.temperatures)] * len(self.loads))
        ]
        return np.array(cells)

    def certain(self, thresholds: Thresholds | None = None) -> NDArray[np.bool_]:
        """Where the phase stays when every measure moves by two standard errors.

        Args:
            thresholds: where measures count as large.

        Returns:
            Shape (loads, temperatures); False where an error is not known.
        """
        chosen = thresholds or Thresholds()
        bounds = {
            "train loss": chosen.loss,
            "connectivity": -chosen.connectivity,
            "alignment": chosen.alignment,
        }
        if chosen.eigenvalue is not None:
            bounds["largest eigenvalue"] = chosen.eigenvalue
        named = self.phases(chosen)
        sure: NDArray[np.bool_] = named != UNCLEAR
        for name, bound in bounds.items():
            means, errors = self.table(name)
            # Only phase IV looks at the alignment.
            asked = np.char.startswith(named, "IV") if name == "alignment" else True
            apart = np.abs(means - bound) > 2 * errors
            sure = np.logical_and(sure, np.logical_or(np.logical_not(asked), apart))
        return sure

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The plane as labeled arrays.

        Returns:
            group name -> Dataset.
        """
        axes = ("load", "temperature", "seed")
        data = xr.Dataset(
            {
                "of_seeds": ((*axes, "measure"), self.of_seeds),
                "of_pairs": ((*axes, "pair_measure"), self.of_pairs),
            },
            coords={
                "load": np.array(self.loads),
                "temperature": np.array(self.temperatures),
                "measure": np.array(OF_SEEDS, dtype=object),
                "pair_measure": np.array(OF_PAIRS, dtype=object),
            },
            attrs={"provenance": self.provenance.to_json(), "axis": self.temperature},
        )
        return {"phases": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "PhasePlane":
        """The inverse of `to_tree`.

        Args:
            tree: what it gave.

        Returns:
            An equal plane.
        """
        data = tree["phases"]
        return cls(
            tuple(map(int, data["load"].values)),
            tuple(map(float, data["temperature"].values)),
            str(data.attrs["axis"]),
            np.asarray(data["of_seeds"].values),
            np.asarray(data["of_pairs"].values),
            store.Provenance.from_json(data.attrs["provenance"]),
        )


def _over_seeds(column: Array, pairs: list[tuple[int, int]], seeds: int) -> Estimate:
    firsts = np.array([first for first, _ in pairs])
    seconds = np.array([second for _, second in pairs])

    def mean(kept: Tensor) -> float:
        there = np.isin(np.arange(seeds), kept.numpy())
        chosen = column[firsts[there[firsts] & there[seconds]]]
        return float(chosen.mean()) if len(chosen) else math.nan

    return jackknife(mean, seeds, folds=seeds)


def _phase(
    at: Thresholds, loss: float, eigenvalue: float, connectivity: float, alignment: float
) -> str:
    if not (math.isfinite(loss) and math.isfinite(connectivity)):
        return UNCLEAR
    high = loss > at.loss
    if at.eigenvalue is not None and (eigenvalue > at.eigenvalue) != high:
        return UNCLEAR
    barrier = connectivity < -at.connectivity
    if high:
        return "I" if barrier else "II"
    if barrier:
        return "III"
    if not math.isfinite(alignment):
        return UNCLEAR
    return "IV-B" if alignment >= at.alignment else "IV-A"
