"""What the quality of an initialization can be predicted from, and how well."""

from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas import io
from lossatlas.checks import check_one_of
from lossatlas.inits.scores import interval_estimate
from lossatlas.result import Estimate, Figure, Reference, Result, result
from lossatlas.text import number

Array = NDArray[np.float64]
METRICS = ("Spearman", "Kendall", "R2", "MAE", "regret@1", "regret@3")
REFERENCES = ("scheme + scale", "simple", "statistics")
_RIDGE = " / ridge"
# Rows of a short table: so many of the best, and these.
_FIRST = 3
_ALWAYS = (
    "scheme + scale",
    "topology",
    "topology, losses shuffled",
    "scheme + scale + topology",
)
_PREDICTED = ("scheme + scale", "topology", "scheme + scale + topology")
_HOLM = Reference(
    "p-values of single features",
    "Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of "
    "Statistics 6 (1979) 65.",
    "https://www.jstor.org/stable/4615733",
)


@result("inits-quality", references=(_HOLM,))
class Quality(Result):
    """Predictions of the loss after training, scored on rows that no fit has seen.

    A model is a set of features and a regressor, as in "topology / ridge". A number with its
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
        schemes: of the candidates.
        truth: logarithm of the loss of each candidate; NaN where a training diverged.
        predictions: of `truth`, shape (splits, models, candidates); deviations from the cell in
            the scale-matched split.
        scores: shape (splits, models, metrics, 3), metrics as `METRICS`; R2 and MAE of the
            logarithm, regret in units of the loss.
        gains: Spearman minus that of each reference of `REFERENCES` on the same folds, shape
            (splits, models, references, 3).
        p: share of shuffled labels that are predicted as well, for ridge; NaN for the others.
        ceilings: reliability of the labels within the blocks of each split (ICC), shape
            (splits, 3); no correlation can exceed its root.
        cost: forward passes over the probe a candidate, shape (models,).
        feature_rho: Spearman of each single feature, shape (splits, features).
        feature_p: p-value by shuffling, two-sided, Holm-corrected over the features.
        selection: (cost of choosing one of `group`, regret, lower, upper) of each choice.
        group: how many there are to choose from.
        diverged: how many candidates diverged in some order; they are no part of the scores.
        divergence: how well divergence itself is predicted, name -> area under the
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
    schemes: tuple[str, ...]
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
    provenance: io.Provenance = field(default_factory=io.Provenance)

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

    def estimates(self) -> tuple[Estimate, ...]:
        """Rank correlations of every split and model, the choice of one, reliabilities."""
        return (
            *(row for split in self.splits for row in self._ranks(split)),
            *self._choices(),
            *self._others(),
        )

    def _ranks(self, split: str) -> Iterator[Estimate]:
        ranked = self._ranked(split)
        best = [model for model in ranked if model.endswith(_RIDGE)][:_FIRST]
        shown = {*best, *(name + _RIDGE for name in _ALWAYS)}
        for model in ranked:
            passes = self.cost[self.models.index(model)]
            meaning = f"{passes:,.0f} passes"
            if np.isfinite(p := self.p_of(split, model)):
                meaning += f", p = {number(p, 2)}"
            yield interval_estimate(
                f"{split}: {model.removesuffix(_RIDGE)}",
                self.score(split, model),
                int(np.isfinite(self.truth).sum()),
                is_minor=model not in shown,
                meaning=meaning,
            )

    def _ranked(self, split: str) -> list[str]:
        known = [m for m in self.models if np.isfinite(self.score(split, m)[0])]
        return sorted(known, key=lambda model: -self.score(split, model)[0])

    def _choices(self) -> Iterator[Estimate]:
        for name, (cost, *regret) in zip(self.choices, self.selection, strict=True):
            options: Any = {"is_minor": True, "unit": "loss", "meaning": f"{cost:,.0f} passes"}
            label = f"regret: {name.removesuffix(_RIDGE)}"
            yield interval_estimate(label, regret, len(self.truth), **options)

    def _others(self) -> Iterator[Estimate]:
        for split, numbers in zip(self.splits, self.ceilings, strict=True):
            if np.isfinite(numbers[0]):
                name = f"reliability of labels, {split}"
                yield interval_estimate(name, numbers, len(self.truth), is_minor=True)
        yield Estimate(float(self.diverged), 0.0, name="diverged candidates", is_minor=True)
        for name, area in self.divergence.items():
            what = f"divergence predicted from {name}, area under the curve"
            why = "one partition into folds"
            yield Estimate(area, why_no_error=why, name=what, is_minor=True)

    def sentences(self) -> tuple[str, ...]:
        """What predicts best in each split, beside scheme and scale; and what was left out."""
        rows = [self._best(split) for split in self.splits if self._ranked(split)]
        return (*rows, *self.notes)

    def _best(self, split: str) -> str:
        best, recipe = self._ranked(split)[0], f"{REFERENCES[0]}{_RIDGE}"

        def shown(model: str) -> str:
            value, lower, upper = self.score(split, model)
            return f"{value:.2f} [{lower:.2f}, {upper:.2f}]"

        text = f"{split}: the best prediction of the loss after {self.budget} epochs is from "
        text = f"{text[0].upper()}{text[1:]}{best.removesuffix(_RIDGE)}, rank correlation "
        text += shown(best)
        if recipe in self.models and best != recipe:
            text += f"; scheme and scale alone give {shown(recipe)}"
        return f"{text}."

    def figures(self) -> tuple[Figure, ...]:
        """Scores of every split, predictions against the truth, and choosing one."""
        from lossatlas.plots.chart import backends

        alt = " ".join(self.sentences())
        splits = [split for split in self.splits if self._ranked(split)]
        sets = [name for name in _PREDICTED if f"{name}{_RIDGE}" in self.models]
        charts = {f"scores-{split}": (split, partial(self._scores, split)) for split in splits}
        charts |= {f"predicted from {s}": (s, partial(self._predicted, s)) for s in sets}
        charts["choosing"] = ("Choosing one of many", partial(self._choosing))
        return tuple(
            Figure(name, title, *backends(chart), alt=alt)
            for name, (title, chart) in charts.items()
        )

    def _scores(self, split: str) -> Any:
        from lossatlas.plots.inits import scores_chart

        place = self.splits.index(split)
        rows = [k for k, model in enumerate(self.models) if model.endswith(_RIDGE)]
        names = [self.models[k].removesuffix(_RIDGE) for k in rows]
        share = self.ceilings[place, 0]
        return scores_chart(
            names,
            self.scores[place, rows, 0],
            title=f"Predicting the loss after {self.budget} epochs: {split}",
            label="rank correlation out of fold, ridge, 95 % interval",
            ceiling=float(np.sqrt(max(share, 0))) if np.isfinite(share) else None,
            strong=[name for name in names if "topology" in name],
        )

    def _predicted(self, name: str) -> Any:
        from lossatlas.plots.inits import predicted_chart

        row = self.predictions[0, self.models.index(f"{name}{_RIDGE}")]
        return predicted_chart(self.truth, row, self.schemes, title=name)

    def _choosing(self) -> Any:
        from lossatlas.plots.inits import choice_chart

        rows = [k for k, n in enumerate(self.choices) if not n.endswith(("boosted", "network"))]
        names = [self.choices[k].removesuffix(_RIDGE) for k in rows]
        strong = ("mean", *_PREDICTED)
        return choice_chart(names, self.selection[rows], group=self.group, strong=strong)
