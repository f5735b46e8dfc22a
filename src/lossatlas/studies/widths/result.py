"""What a study of widths found: sharpness in units of the rate, and the best rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.linalg.estimators import mean_of
from lossatlas.result import Estimate

Array = NDArray[np.float64]

# A best rate that moves by less than a quarter of an octave for each doubling stays.
_STAYS = 0.25
_UNKNOWN = "not told apart"


@dataclass(frozen=True)
class Transfer:
    """Whether the best rate of narrow networks serves wide ones.

    Attributes:
        slope: octaves that the best rate moves for each doubling of the width; mean and error
            over seeds. 0 is transfer; -1 is a rate that must be halved.
        regret: loss of the widest networks at the best rate of the narrowest, over their loss
            at their own best rate, minus 1; mean and error over seeds. Infinite where a
            training diverged.
        verdict: from the 95 % interval of the slope and a margin of a quarter of an octave:
            "transfers" where it lies within the margin, "does not transfer" where it lies
            beyond, "moves, by how much is open" where it leaves out zero but holds the margin,
            otherwise "not told apart". Where a best rate is the first or the last of the grid
            the slope says nothing: "not told apart".
    """

    slope: Estimate
    regret: Estimate
    verdict: str


@store.kind("widths")
@dataclass(frozen=True, eq=False)
class WidthStudy:
    """Sharpness and losses of all trainings of a study of widths.

    Attributes:
        families: names of the parametrizations.
        widths: of the hidden layers, growing.
        rates: base rates, growing.
        seeds: of the initial weights.
        read: after how many updates the sharpness was read.
        sharpness: rate x largest eigenvalue of the Hessian, no unit, shape (families, widths,
            rates, seeds, readings); 2 is the edge of stability. NaN after a divergence.
        bounds: error bounds of `sharpness`, same shape.
        losses: at the end, shape (families, widths, rates, seeds); infinite where the training
            diverged.
        provenance: settings and fingerprint of the data.
    """

    families: tuple[str, ...]
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    read: tuple[int, ...]
    sharpness: Array
    bounds: Array
    losses: Array
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def deviation(self, family: str, rate: float, at: int = -1) -> tuple[Estimate, ...]:
        """How far the sharpness of each width is from that of the widest.

        Args:
            family: its name.
            rate: one of `rates`.
            at: which reading; the last one by default.

        Returns:
            Relative deviations, one a width (the last one 0), mean and error over seeds. NaN
            where a training diverged.

        Raises:
            UnknownNameError: an unknown family.
            ArgumentError: a rate that was not trained.
        """
        where = self._row(family)
        if rate not in self.rates:
            raise ArgumentError(f"`rate` must be one of {list(self.rates)}; got {rate}.")
        table = self.sharpness[where, :, self.rates.index(rate), :, at]
        return tuple(mean_of(row / table[-1] - 1) for row in table)

    def best_rates(self, family: str) -> Array:
        """The rate with the lowest loss at the end, for each width and seed.

        Between rates a parabola through the logarithms of three losses is read, where all
        three trainings ended.

        Args:
            family: its name.

        Returns:
            Shape (widths, seeds); NaN where every training diverged.

        Raises:
            UnknownNameError: an unknown family.
        """
        losses = self.losses[self._row(family)]
        return np.array(
            [[_best(np.array(self.rates), row) for row in table.T] for table in losses]
        )

    def transfer(self, family: str) -> Transfer:
        """Whether the best rate stays where it is when networks widen.

        Args:
            family: its name.

        Returns:
            Slope, regret and verdict.

        Raises:
            UnknownNameError: an unknown family.
        """
        octaves = np.log2(self.best_rates(family))
        doublings = np.log2(np.array(self.widths, dtype=float))
        centered = doublings - doublings.mean()
        slope = mean_of(centered @ octaves / (centered @ centered))
        verdict = _UNKNOWN if self.at_an_end(family) else _verdict(*slope.interval())
        return Transfer(slope, mean_of(self._regrets(family)), verdict)

    def at_an_end(self, family: str) -> float:
        """How often the best rate is the first or the last one that was tried.

        Args:
            family: its name.

        Returns:
            A share of all widths and seeds; above 0 the study needs more rates.

        Raises:
            UnknownNameError: an unknown family.
        """
        found = self.best_rates(family)
        return float(np.isin(found, [self.rates[0], self.rates[-1]]).mean())

    def _regrets(self, family: str) -> Array:
        # The rates that were trained: nothing is known of a loss between them.
        losses = self.losses[self._row(family)]
        chosen = losses[0].mean(1).argmin()
        regrets: Array = losses[-1, chosen] / losses[-1].min(0) - 1
        return regrets

    def _row(self, family: str) -> int:
        check_one_of("family", family, self.families)
        return self.families.index(family)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The study as labeled arrays.

        Returns:
            group name -> Dataset.
        """
        axes = ("family", "width", "rate", "seed")
        data = xr.Dataset(
            {
                "sharpness": ((*axes, "read"), self.sharpness),
                "bounds": ((*axes, "read"), self.bounds),
                "losses": (axes, self.losses),
            },
            coords={
                "family": np.array(self.families, dtype=object),
                "width": np.array(self.widths),
                "rate": np.array(self.rates),
                "seed": np.array(self.seeds),
                "read": np.array(self.read),
            },
            attrs={"provenance": self.provenance.to_json()},
        )
        return {"widths": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "WidthStudy":
        """The inverse of `to_tree`.

        Args:
            tree: what it gave.

        Returns:
            An equal study.
        """
        data = tree["widths"]
        return cls(
            tuple(map(str, data["family"].values)),
            tuple(map(int, data["width"].values)),
            tuple(map(float, data["rate"].values)),
            tuple(map(int, data["seed"].values)),
            tuple(map(int, data["read"].values)),
            np.asarray(data["sharpness"].values),
            np.asarray(data["bounds"].values),
            np.asarray(data["losses"].values),
            store.Provenance.from_json(data.attrs["provenance"]),
        )


def _verdict(low: float, high: float) -> str:
    if max(abs(low), abs(high)) < _STAYS:
        return "transfers"
    if low > _STAYS or high < -_STAYS:
        return "does not transfer"
    return "moves, by how much is open" if low > 0 or high < 0 else _UNKNOWN


def _best(rates: Array, losses: Array) -> float:
    if not np.isfinite(losses).any():
        return float("nan")
    at = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
    if not 0 < at < len(rates) - 1 or not np.isfinite(losses[at - 1 : at + 2]).all():
        return float(rates[at])
    x, y = np.log(rates[at - 1 : at + 2]), np.log(np.maximum(losses[at - 1 : at + 2], 1e-300))
    a, b, _ = np.polyfit(x - x[1], y, 2)
    shift = -b / (2 * a) if a > 0 else 0.0
    return float(np.exp(np.clip(x[1] + shift, x[0], x[2])))
