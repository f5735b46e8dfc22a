"""How well the loss is predicted without computing it, and what that costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.studies.inits import scores

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
COSTS = ("data", "fit", "use")
VIEWS = ("pooled", "within scheme", "same radius")
_RESAMPLES = 500


@store.kind("inits-surrogates")
@dataclass(frozen=True, eq=False)
class Surrogates:
    """Predictions of losses on points that no predictor was fitted to.

    Attributes:
        kinds: names of the predictors.
        tested: indices of the held-out pairs, shape (tested,).
        schemes: of these, shape (tested,).
        truth: their losses, clipped to [0.1, 100], shape (tested,).
        predictions: shape (kinds, tested); NaN where a kind serves one initialization only.
        near_truth: losses around initializations, all at one distance relative to the length
            of each filter, shape (anchors, points).
        near: predictions there, shape (kinds, anchors, points).
        near_spread: standard deviation that a Gaussian process gives, likewise, else NaN.
        history: of the trainings: kind -> (epochs, 3), training loss, validation error, rate.
        seconds: CPU seconds, shape (kinds, 3): the data, the fit, and 1,000 predictions.
        true_seconds: CPU seconds of 1,000 true losses of a landscape.
        provenance: settings, seed, fingerprint of the data.
    """

    kinds: tuple[str, ...]
    tested: Ints
    schemes: NDArray[np.str_]
    truth: Array
    predictions: Array
    near_truth: Array
    near: Array
    near_spread: Array
    history: Mapping[str, Array]
    seconds: Array
    true_seconds: float
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def spearman(self, kind: str, view: str) -> tuple[float, float, float]:
        """The rank correlation of predicted and true losses, with its 95 % interval.

        Args:
            kind: one of `kinds`.
            view: "pooled" over all held-out pairs; "within scheme", averaged over schemes;
                "same radius", within the surroundings of each initialization, averaged over
                these.

        Returns:
            (value, lower, upper), bootstrap over points (over initializations for "same
            radius"); NaN where a kind does not serve this view.

        Raises:
            UnknownNameError: an unknown kind or view.
        """
        check_one_of("kind", kind, self.kinds)
        check_one_of("view", view, VIEWS)
        index = self.kinds.index(kind)
        if view == "same radius":
            return self._near(index)
        if not np.isfinite(self.predictions[index]).all():
            return (np.nan, np.nan, np.nan)
        blocks = np.zeros(len(self.truth), dtype=np.int64)
        if view == "within scheme":
            blocks = np.unique(self.schemes, return_inverse=True)[1].astype(np.int64)
        predicted = self.predictions[index]
        value = scores.spearman(self.truth, predicted[None], blocks)[0]
        drawn = scores.resamples(blocks, _RESAMPLES, 0)
        # Drawn within blocks: each place keeps its block.
        samples = scores.spearman(self.truth[drawn], predicted[drawn], blocks)
        return (float(value), *scores.interval(samples))

    def _near(self, index: int) -> tuple[float, float, float]:
        each = np.array(
            [
                scores.spearman(truth, predicted[None], np.zeros(len(truth), dtype=np.int64))[0]
                for truth, predicted in zip(self.near_truth, self.near[index], strict=True)
            ]
        )
        blocks = np.zeros(len(each), dtype=np.int64)
        samples = each[scores.resamples(blocks, _RESAMPLES, 0)].mean(axis=1)
        return (float(each.mean()), *scores.interval(samples))

    def error(self, kind: str) -> float:
        """The mean absolute error on the held-out pairs.

        Args:
            kind: one of `kinds`.

        Returns:
            In units of the loss; NaN where a kind serves one initialization only.

        Raises:
            UnknownNameError: an unknown kind.
        """
        check_one_of("kind", kind, self.kinds)
        return float(np.abs(self.predictions[self.kinds.index(kind)] - self.truth).mean())

    def coverage(self, kind: str, level: float = 1.645) -> float:
        """How often the true loss lies in the interval that a predictor gives.

        Args:
            kind: one of `kinds`.
            level: half the width in standard deviations; 1.645 is to cover 90 %.

        Returns:
            A share; NaN for kinds that give no deviation.

        Raises:
            UnknownNameError: an unknown kind.
        """
        check_one_of("kind", kind, self.kinds)
        index = self.kinds.index(kind)
        spread = self.near_spread[index]
        if not np.isfinite(spread).all():
            return float("nan")
        inside = np.abs(self.near[index] - self.near_truth) <= level * spread
        return float(inside.mean())

    def cost(self, kind: str, losses: int, initializations: int = 1) -> float:
        """CPU seconds of all that a predictor needs to give losses of landscapes.

        Args:
            kind: one of `kinds`.
            losses: of each initialization.
            initializations: how many share the data and the fit.

        Returns:
            Seconds an initialization. A predictor of one initialization shares nothing.

        Raises:
            UnknownNameError: an unknown kind.
        """
        check_one_of("kind", kind, self.kinds)
        data, fit, use = self.seconds[self.kinds.index(kind)]
        shared = 1 if kind == "subspace" else initializations
        return float((data + fit) / shared + use * losses / 1000)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The result as labeled arrays.

        Returns:
            One group, and one for each history.
        """
        near = ("kind", "anchor", "point")
        data = xr.Dataset(
            {
                "tested": ("pair", self.tested),
                "scheme": ("pair", list(self.schemes)),
                "truth": ("pair", self.truth),
                "predictions": (("kind", "pair"), self.predictions),
                "near_truth": (near[1:], self.near_truth),
                "near": (near, self.near),
                "near_spread": (near, self.near_spread),
                "seconds": (("kind", "part"), self.seconds),
            },
            coords={"kind": list(self.kinds), "part": list(COSTS)},
            attrs={
                "provenance": self.provenance.to_json(),
                "true_seconds": self.true_seconds,
            },
        )
        histories = {
            f"history/{kind}": xr.Dataset({"history": (("epoch", "quantity"), rows)})
            for kind, rows in self.history.items()
        }
        return {"surrogates": data} | histories

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Surrogates":
        """The inverse of `to_tree`.

        Args:
            tree: group -> Dataset.

        Returns:
            An equal result.
        """
        data = tree["surrogates"]
        arrays = {
            name: np.asarray(data[name].values)
            for name in ("truth", "predictions", "near_truth", "near", "near_spread", "seconds")
        }
        histories = {
            group.removeprefix("history/"): np.asarray(part["history"].values)
            for group, part in tree.items()
            if group.startswith("history/")
        }
        return cls(
            kinds=tuple(data["kind"].values.tolist()),
            tested=np.asarray(data["tested"].values),
            schemes=np.array(data["scheme"].values.tolist()),
            history=histories,
            true_seconds=float(data.attrs["true_seconds"]),
            provenance=store.Provenance.from_json(data.attrs["provenance"]),
            **arrays,
        )
