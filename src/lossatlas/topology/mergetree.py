"""Merge trees: minima, the saddles between them, and the water that joins them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Bools, Floats, Ints


@store.kind("mergetree")
@dataclass(frozen=True, eq=False)
class MergeTree:
    """How the basins of a landscape join as the water rises.

    Minima are numbered from the deepest; equal depths by flat index. Merge `i` happens at
    saddle `i`, in order of height: the basin of minimum `ended[i]` spills into the one whose
    deepest minimum is `into[i]`. So `ended`, `saddles`, `into` are also the branches of the
    branch decomposition (minimum, saddle, parent branch).

    Attributes:
        minima: flat index of each minimum.
        minima_values: value there, ascending.
        saddles: flat index of the point that joins two basins, one a merge.
        saddle_values: height of each merge, ascending.
        bridges: (merges, 2) flat indices of the edge where the basins touch.
        ended: number of the minimum whose basin ends there.
        into: number of the minimum whose basin goes on.
        basins: number of the basin of each point, shaped like the field; -1 at the walls.
        low: least value of the field.
        high: greatest finite value.
        threshold: branches longer than this are no effect of the map's errors; NaN where that
            is unknown.
        connectivity: "full", "axis", or how the graph was made.
        confidence: probability with which `threshold` holds; of a graph the errors given with
            it are taken to hold.
        why_unknown: why it is unknown which branches are certain; empty where it is known.
        rarest_share: effects that fewer than this share of the units have cannot be
            excluded; see `Diagram`.
        periodic: per axis, whether its two ends touch; empty where none does.
    """

    minima: Ints
    minima_values: Floats
    saddles: Ints
    saddle_values: Floats
    bridges: Ints
    ended: Ints
    into: Ints
    basins: Ints
    low: float
    high: float
    threshold: float
    connectivity: str
    confidence: float = 0.95
    why_unknown: str = ""
    rarest_share: float = float("nan")
    periodic: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return int(self.minima.size)

    @property
    def excluded(self) -> int:
        """Number of points that are not finite."""
        return int(np.count_nonzero(self.basins < 0))

    @property
    def volumes(self) -> Ints:
        """Number of points of each basin."""
        return np.bincount(self.basins[self.basins >= 0], minlength=len(self))

    @property
    def persistences(self) -> Floats:
        """Length of the branch of each minimum: elder rule; +inf where it never ends."""
        lengths = np.full(len(self), np.inf)
        lengths[self.ended] = self.saddle_values - self.minima_values[self.ended]
        return lengths

    @property
    def certain(self) -> Bools:
        """True where the branch of a minimum is known to be longer than the threshold.

        False where it is not, and where that is unknown (see `why_unknown`).
        """
        return self.persistences > self.threshold

    def coordinates(self, points: Ints) -> Ints:
        """Grid indices of flat indices.

        Args:
            points: flat indices, as in `minima` and `saddles`.

        Returns:
            (points, dimensions).
        """
        return np.stack(np.unravel_index(points, self.basins.shape), axis=-1).astype(np.int64)

    def barrier(self, i: int, j: int) -> float:
        """Least height that every path between two minima must reach.

        Args:
            i: number of a minimum.
            j: number of another; equal numbers give the value at the minimum.

        Returns:
            A level, in units of the field (subtract `minima_values[i]` for the climb from
            `i`); +inf where a wall parts them.

        Raises:
            ArgumentError: no such minimum.
        """
        for name, number in (("i", i), ("j", j)):
            if not isinstance(number, int | np.integer) or not 0 <= number < len(self):
                raise ArgumentError(
                    f"`{name}` must be the number of a minimum, 0 to {len(self) - 1}; "
                    f"got {number!r}."
                )
        merge, parent = self._merge_of, self._parent_of
        level = float(self.minima_values[i]) if i == j else -np.inf
        while i != j:
            # Always climb from the branch that ends first: its parent lives on above it.
            if merge[j] < merge[i]:
                i, j = j, i
            if merge[i] == self.ended.size:
                return np.inf
            level = float(self.saddle_values[merge[i]])
            i = int(parent[i])
        return level

    @property
    def _merge_of(self) -> Ints:
        merge = np.full(len(self), self.ended.size, dtype=np.int64)
        merge[self.ended] = np.arange(self.ended.size)
        return merge

    @property
    def _parent_of(self) -> Ints:
        parent = np.arange(len(self))
        parent[self.ended] = self.into
        return parent

    def first_saddles(self) -> Floats:
        """Height at which the basin of each minimum first meets another.

        Returns:
            One level a minimum; +inf where it meets none.
        """
        level = np.full(len(self), np.inf)
        for nodes in (self.ended, self.into):
            np.minimum.at(level, nodes, self.saddle_values)
        return level

    def smad(
        self, *, weighted: bool = False, normalize: bool = False, rule: str = "leaf"
    ) -> float:
        """Saddle-minimum average distance: how high the ground rises around a minimum.

        Args:
            weighted: multiply each gap by the share of the points in its basin.
            normalize: divide by the range of the field.
            rule: "leaf": every minimum against the saddle where it first meets another, the
                deepest minimum too (Landscaper's number, on axis connectivity). "elder":
                the length of each finite branch, that is the mean persistence.

        Returns:
            The mean over the minima, in units of the field (or of its range); 0 where no
            basin meets another.

        Raises:
            UnknownNameError: an unknown rule.

        Source: Landscaper 1.3.1, `LossLandscape.smad`. It takes the gaps from a contour tree
        instead, whose nodes are also the points where a superlevel set parts, and prunes it
        in two passes that halt early on rough grids; the basins not reached are left out,
        down to NaN for a field of three. Where all are reached and each first meets another
        basin, the numbers are equal.
        """
        check_one_of("rule", rule, ("leaf", "elder"))
        gaps = (
            self.first_saddles() - self.minima_values if rule == "leaf" else self.persistences
        )
        met = np.isfinite(gaps)
        if not met.any():
            return 0.0
        points = np.count_nonzero(self.basins >= 0)
        share = self.volumes / points if weighted else np.ones(len(self))
        scale = self.high - self.low if normalize else 1.0
        return float(np.mean(gaps[met] * share[met]) / scale) if scale > 0 else 0.0

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The merge tree as labeled arrays.

        Returns:
            Groups `minima`, `merges` and `basins`.
        """
        axes = tuple(f"axis_{k}" for k in range(self.basins.ndim))
        attributes = {name: getattr(self, name) for name in _ATTRIBUTES}
        if self.periodic:
            attributes["periodic"] = np.array(self.periodic, dtype=np.int64)
        merges = {name: ("merge", getattr(self, name)) for name in _MERGES}
        minima = {name: ("minimum", getattr(self, name)) for name in _MINIMA}
        return {
            "minima": xr.Dataset(minima, attrs=attributes),
            "merges": xr.Dataset(merges | {"bridges": (("merge", "end"), self.bridges)}),
            "basins": xr.Dataset({"basins": (axes, self.basins)}),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "MergeTree":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> arrays.

        Returns:
            An equal merge tree.
        """
        minima, merges = tree["minima"], tree["merges"]
        return cls(
            minima=minima["minima"].to_numpy(),
            minima_values=minima["minima_values"].to_numpy(),
            saddles=merges["saddles"].to_numpy(),
            saddle_values=merges["saddle_values"].to_numpy(),
            bridges=merges["bridges"].to_numpy(),
            ended=merges["ended"].to_numpy(),
            into=merges["into"].to_numpy(),
            basins=tree["basins"]["basins"].to_numpy(),
            low=float(minima.attrs["low"]),
            high=float(minima.attrs["high"]),
            threshold=float(minima.attrs["threshold"]),
            connectivity=str(minima.attrs["connectivity"]),
            confidence=float(minima.attrs.get("confidence", 0.95)),
            why_unknown=str(minima.attrs.get("why_unknown", "")),
            rarest_share=float(minima.attrs.get("rarest_share", np.nan)),
            periodic=tuple(bool(k) for k in np.atleast_1d(minima.attrs.get("periodic", []))),
        )


_MINIMA = ("minima", "minima_values")
_MERGES = ("saddles", "saddle_values", "ended", "into")
_ATTRIBUTES = (
    "low",
    "high",
    "threshold",
    "connectivity",
    "confidence",
    "why_unknown",
    "rarest_share",
)
