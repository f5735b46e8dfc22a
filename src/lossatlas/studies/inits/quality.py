"""What the quality of an initialization can be predicted from, and how well."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_one_of

Array = NDArray[np.float64]
METRICS = ("Spearman", "Kendall", "R2", "MAE", "regret@1", "regret@3")
REFERENCES = ("scheme + scale", "simple", "statistics")
# Rows of a table: so many of the best, and these.
_FIRST = 3
_ASKED = (
    "scheme + scale",
    "topology",
    "topology, losses shuffled",
    "scheme + scale + topology",
)
_AXES: dict[str, tuple[str, ...]] = {
    "predictions": ("split", "model", "candidate"),
    "scores": ("split", "model", "metric", "bound"),
    "gains": ("split", "model", "reference", "bound"),
    "p": ("split", "model"),
    "ceilings": ("split", "bound"),
    "cost": ("model",),
    "truth": ("candidate",),
    "feature_rho": ("split", "feature"),
    "feature_p": ("split", "feature"),
    "selection": ("choice", "number"),
}


@store.kind("inits-quality")
@dataclass(frozen=True, eq=False)
class Quality:
    """Predictions of the loss after training, scored on rows that no fit has seen.

    A model is a set of features and a head, as in "topology / ridge". A number with its
    interval is (value, lower, upper) along the last axis, the interval being the paired
    bootstrap over candidates, 95 %; Kendall's tau goes without (Spearman's tells the same), as
    do splits that these candidates do not allow (NaN).

    Attributes:
        budget: epochs after which quality is read.
        measure: which loss.
        splits: names.
        models: names.
        features: names of the single features that were tested.
        choices: names of the ways to choose one of many.
        truth: logarithm of the loss of each candidate; NaN where a training diverged.
        predictions: of `truth`, shape (splits, models, candidates); deviations from the cell in
            the scale-matched split.
        scores: shape (splits, models, metrics, 3), metrics as `METRICS`; R2 and MAE of the
            logarithm, regret in units of the loss.
        gains: Spearman minus that of each reference of `REFERENCES` on the same folds, shape
            (splits, models, references, 3).
        p: share of shuffled labels that are predicted as well, for ridge; NaN for other heads.
        ceilings: reliability of the labels within the blocks of each split (ICC), shape
            (splits, 3); no correlation can exceed its root.
        cost: forward passes over the probe a candidate, shape (models,).
        feature_rho: Spearman of each single feature, shape (splits, features).
        feature_p: p-value by shuffling, two-sided, Holm-corrected over the features.
        selection: (cost of choosing one of `group`, regret, lower, upper) of each choice.
        group: how many there are to choose from.
        diverged: how many candidates diverged in some order; they are no part of the scores.
        divergence: how well divergence itself is told beforehand, name -> area under the
            curve; empty where fewer than five candidates diverged, or fewer than five did not.
        notes: what a reader should know.
        provenance: settings.
    """

    budget: int
    measure: str
    splits: tuple[str, ...]
    models: tuple[str, ...]
    features: tuple[str, ...]
    choices: tuple[str, ...]
    truth: Array
    predictions: Array
    scores: Array
    gains: Array
    p: Array
    ceilings: Array
    cost: Array
    feature_rho: Array
    feature_p: Array
    selection: Array
    group: int
    diverged: int = 0
    divergence: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def score(self, split: str, model: str, metric: str = "Spearman") -> Array:
        """One number with its interval.

        Args:
            split: one of `splits`.
            model: one of `models`.
            metric: one of `METRICS`.

        Returns:
            (value, lower, upper).

        Raises:
            UnknownNameError: no such split, model or metric.
        """
        check_one_of("metric", metric, METRICS)
        i, j = self._place(split, model)
        return np.asarray(self.scores[i, j, METRICS.index(metric)])

    def gain(self, split: str, model: str, reference: str) -> Array:
        """By how much a model ranks better than a reference.

        Args:
            split: one of `splits`.
            model: one of `models`.
            reference: one of `REFERENCES`.

        Returns:
            (difference of Spearman, lower, upper).

        Raises:
            UnknownNameError: no such split, model or reference.
        """
        check_one_of("reference", reference, REFERENCES)
        i, j = self._place(split, model)
        return np.asarray(self.gains[i, j, REFERENCES.index(reference)])

    def p_of(self, split: str, model: str) -> float:
        """The share of shuffled labels that a model predicts as well.

        Args:
            split: one of `splits`.
            model: one of `models`.

        Returns:
            The p-value; NaN where it was not computed.

        Raises:
            UnknownNameError: no such split or model.
        """
        return float(self.p[self._place(split, model)])

    def _place(self, split: str, model: str) -> tuple[int, int]:
        check_one_of("split", split, self.splits)
        check_one_of("model", model, self.models)
        return self.splits.index(split), self.models.index(model)

    def summary(self) -> dict[str, Any]:
        """The scores as plain values.

        Returns:
            Split -> model -> Spearman with interval, p-value and cost; ceilings; the choice of
            one of many.
        """
        scored = {
            split: {
                model: {
                    "spearman": [*map(float, self.score(split, model))],
                    "p": self.p_of(split, model),
                    "cost": float(self.cost[j]),
                }
                for j, model in enumerate(self.models)
            }
            for split in self.splits
            if np.isfinite(self.score(split, self.models[0])[0])
        }
        names = ("cost", "regret", "lower", "upper")
        return {
            "budget": self.budget,
            "scores": scored,
            "reliability": dict(zip(self.splits, self.ceilings.tolist(), strict=True)),
            "choosing_one": {
                name: dict(zip(names, map(float, row), strict=True))
                for name, row in zip(self.choices, self.selection, strict=True)
            },
            "group": self.group,
            "diverged": self.diverged,
            "divergence": dict(self.divergence),
            "notes": list(self.notes),
        }

    def table(self) -> list[tuple[str, str, str]]:
        """The scores that a reader looks for first.

        Returns:
            (name, value, error or remark): rank correlations of ridge models by split, of the
            three best and of those that every study is asked about.
        """
        rows = []
        for split in self.splits:
            known = [m for m in self.models if np.isfinite(self.score(split, m)[0])]
            known = [m for m in known if m.endswith(" / ridge")]
            known.sort(key=lambda model: -self.score(split, model)[0])
            for place, model in enumerate(known):
                if place < _FIRST or model[:-8] in _ASKED:
                    value, low, high = self.score(split, model)
                    cost = self.cost[self.models.index(model)]
                    remark = f"[{low:.2f}, {high:.2f}], {cost:,.0f} passes"
                    rows.append((f"{split}: {model[:-8]}", f"{value:.2f}", remark))
        rows.append(("all models", str(len(self.models)), "in --json and in the figures"))
        return [*rows, *(("note", note, "") for note in self.notes)]

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The scores as labeled arrays.

        Returns:
            One group.
        """
        data = xr.Dataset(
            {name: (axes, getattr(self, name)) for name, axes in _AXES.items()}
            | {"divergence": ("told", np.array(list(self.divergence.values()), dtype=float))},
            coords={
                "split": list(self.splits),
                "model": list(self.models),
                "feature": list(self.features),
                "choice": list(self.choices),
                "metric": list(METRICS),
                "reference": list(REFERENCES),
                "told": np.array(list(self.divergence), dtype=object).astype(str),
                "note": np.array(self.notes, dtype=object).astype(str),
            },
            attrs={
                "budget": self.budget,
                "measure": self.measure,
                "group": self.group,
                "diverged": self.diverged,
                "provenance": self.provenance.to_json(),
            },
        )
        return {"quality": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Quality":
        """The inverse of `to_tree`.

        Args:
            tree: group -> Dataset.

        Returns:
            An equal result.
        """
        data = tree["quality"]

        def names(axis: str) -> tuple[str, ...]:
            return tuple(map(str, data[axis].to_numpy().tolist()))

        arrays = {n: np.asarray(data[n].to_numpy(), dtype=np.float64) for n in _AXES}
        told = data["divergence"].to_numpy().astype(float).tolist()
        return cls(
            budget=int(data.attrs["budget"]),
            measure=str(data.attrs["measure"]),
            splits=names("split"),
            models=names("model"),
            features=names("feature"),
            choices=names("choice"),
            group=int(data.attrs["group"]),
            diverged=int(data.attrs["diverged"]),
            divergence=dict(zip(names("told"), told, strict=True)),
            notes=names("note"),
            provenance=store.Provenance.from_json(data.attrs["provenance"]),
            **arrays,
        )
