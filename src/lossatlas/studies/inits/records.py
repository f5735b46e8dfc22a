"""What the stages hand to each other: recipes of initializations, labels, features.

One folder holds one study. Each stage reads files of the stages before it and writes one of
its own, whole or not at all:

    pairs.nc                 1  `Samples`: recipes and their true losses
    surrogate.nc             2  `Surrogates`: how well the loss is predicted, at what cost
    labels.nc                3  `Labels`: the losses after training
    features.nc, quality.nc  4  `Features`, and what was predicted from them
    figures/                 5  pictures

Each file carries the settings that it depends on (`provenance.settings`); a file of other
settings is refused. Parameters are never stored: a recipe makes them again, bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.studies.inits.candidate import Candidate, recipes
from lossatlas.studies.inits.reliability import Reliability, reliability

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
MEASURES = ("train loss", "test loss", "train accuracy", "test accuracy")
# "null": the topology of the same losses dealt out anew over their points.
GROUPS = ("topology", "null", "statistics", "curvature", "baseline")


@store.kind("inits-labels")
@dataclass(frozen=True, eq=False)
class Labels:
    """What became of each initialization: the losses after training.

    Attributes:
        candidates: the recipes, one an initialization.
        budgets: epochs of each training, growing; trainings are of their own, not prefixes of
            one another, because the schedule knows its end.
        orders: seeds of the data order; the spread over them is the noise of a label.
        values: float64, shape (measures, candidates, orders, budgets) with the measures of
            `MEASURES`, over all training and all test examples, in eval mode; NaN where the
            training diverged.
        diverged: bool, shape (candidates, orders, budgets).
        provenance: settings, seed, fingerprints of the data.
    """

    candidates: tuple[Candidate, ...]
    budgets: tuple[int, ...]
    orders: tuple[int, ...]
    values: Array
    diverged: Bools
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def __len__(self) -> int:
        """How many initializations there are."""
        return len(self.candidates)

    @property
    def schemes(self) -> NDArray[np.str_]:
        """The scheme of each candidate, shape (candidates,)."""
        return np.array([candidate.scheme for candidate in self.candidates])

    @property
    def scales(self) -> Array:
        """The scale of each candidate, shape (candidates,)."""
        return np.array([candidate.scale for candidate in self.candidates])

    def of(self, budget: int, which: str = "test loss") -> Array:
        """One measure after one budget."""
        check_one_of("which", which, MEASURES)
        if budget not in self.budgets:
            raise ArgumentError(f"`budget` must be one of {self.budgets}; got {budget!r}.")
        values = self.values[MEASURES.index(which), :, :, self.budgets.index(budget)]
        return np.asarray(values)

    def quality(self, budget: int, which: str = "test loss") -> Array:
        """The label of each candidate: the mean over the data orders."""
        return np.asarray(self.of(budget, which).mean(axis=1))

    def finite(self, budget: int) -> Bools:
        """Whose training stayed finite in every order; the others are a class of their own."""
        return np.asarray(np.isfinite(self.of(budget)).all(axis=1))

    def reliability(
        self, budget: int, which: str = "test loss", among: Bools | None = None
    ) -> Reliability:
        """How much of the labels' variance is the candidates' own, not the data order's."""
        chosen = self.finite(budget) if among is None else among & self.finite(budget)
        return reliability(self.of(budget, which)[chosen])

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The labels as labeled arrays."""
        axes = ("candidate", "order", "budget")
        data = xr.Dataset(
            {
                "values": (("measure", *axes), self.values),
                "diverged": (axes, self.diverged),
                "recipe": ("candidate", [c.to_json() for c in self.candidates]),
            },
            coords={
                "measure": list(MEASURES),
                "order": list(self.orders),
                "budget": list(self.budgets),
            },
            attrs={"provenance": self.provenance.to_json()},
        )
        return {"labels": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Labels":
        """The inverse of `to_tree`."""
        data = tree["labels"]
        return cls(
            recipes(data["recipe"]),
            tuple(data["budget"].values.tolist()),
            tuple(data["order"].values.tolist()),
            np.asarray(data["values"].values, dtype=np.float64),
            np.asarray(data["diverged"].values, dtype=bool),
            store.Provenance.from_json(data.attrs["provenance"]),
        )


@store.kind("inits-features")
@dataclass(frozen=True, eq=False)
class Features:
    """What can be known of each initialization before its training.

    Attributes:
        names: of the features.
        groups: of each feature, one of `GROUPS`.
        values: float64, shape (candidates, features), in the order of the labels; NaN where a
            feature does not exist.
        cost: feature -> forward passes over one batch of the probe that it takes a candidate
            (a backward pass counts as two); what several features share is in each of them.
        provenance: settings and seed.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: Array
    cost: Mapping[str, float]
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def of(self, names: Sequence[str]) -> Array:
        """Some of the features."""
        for name in names:
            check_one_of("feature", name, self.names)
        return np.asarray(self.values[:, [self.names.index(name) for name in names]])

    def group(self, *groups: str) -> tuple[str, ...]:
        """The features of some groups."""
        for group in groups:
            check_one_of("group", group, GROUPS)
        both = zip(self.names, self.groups, strict=True)
        return tuple(name for name, group in both if group in groups)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The features as labeled arrays."""
        data = xr.Dataset(
            {
                "values": (("candidate", "feature"), self.values),
                "group": ("feature", list(self.groups)),
                "cost": ("feature", [float(self.cost[name]) for name in self.names]),
            },
            coords={"feature": list(self.names)},
            attrs={"provenance": self.provenance.to_json()},
        )
        return {"features": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Features":
        """The inverse of `to_tree`."""
        data = tree["features"]
        names = tuple(data["feature"].values.tolist())
        return cls(
            names,
            tuple(data["group"].values.tolist()),
            np.asarray(data["values"].values, dtype=np.float64),
            dict(zip(names, data["cost"].values.tolist(), strict=True)),
            store.Provenance.from_json(data.attrs["provenance"]),
        )
