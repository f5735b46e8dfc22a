"""One split after another: predictions of every model, and how good they are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.studies.inits import scores
from lossatlas.studies.inits.quality import REFERENCES
from lossatlas.studies.inits.records import Features
from lossatlas.studies.inits.regressors import boosted, network, ridge
from lossatlas.studies.inits.selection import GROUP, Draws
from lossatlas.studies.inits.sets import BROAD, DEEP, feature_sets
from lossatlas.studies.inits.validation import Fold, Split, make_folds, predict

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
# Names of the features, and the head.
Model = tuple[tuple[str, ...], str]
# Bootstrap samples of what is slow to compute.
FEWER = 300


@dataclass(frozen=True)
class Scoring:
    """How predictions are made and scored.

    Attributes:
        folds: of the pooled split, and of the scale-matched one at most.
        resamples: bootstrap samples.
        shuffles: of the labels behind each p-value.
        epochs: of the network head.
        heads: what is tried beside ridge: "boosted", "network".
        group: candidates that one is chosen from.
        epoch_cost: forward passes over the probe that one epoch of training costs.
        fresh: whether a longer training is one of its own, and no continuation.
        seed: of folds, heads, shuffles and resamples.
    """

    folds: int = 5
    resamples: int = 1000
    shuffles: int = 999
    epochs: int = 150
    heads: tuple[str, ...] = ("boosted", "network")
    group: int = GROUP
    epoch_cost: float = 0.0
    fresh: bool = True
    seed: int = 0


def make_models(features: Features, how: Scoring) -> dict[str, Model]:
    """Every set of features with every head that suits it."""
    models: dict[str, Model] = {}
    for name, names in feature_sets(features).items():
        models[f"{name} / ridge"] = (names, "ridge")
        if "boosted" in how.heads and name in BROAD:
            models[f"{name} / boosted"] = (names, "boosted")
        if "network" in how.heads and name in DEEP:
            models[f"{name} / network"] = (names, "network")
    return models


class Evaluator:
    """Candidates whose training stayed finite, and everything that is tried on them.

    Args:
        how: how predictions are made and scored.
        values: features, shape (candidates, features).
        features: their names.
        truth: logarithms of the losses after training.
        losses: the losses.
    """

    def __init__(
        self, how: Scoring, values: Array, features: Features, truth: Array, losses: Array
    ) -> None:
        self.how, self.values, self.features = how, values, features
        self.truth, self.losses = truth, losses
        self._made: dict[str, list[Fold]] = {}

    def predict(self, split: Split, model: Model, labels: Array) -> Array:
        """Predictions of one model out of fold."""
        names, head = model
        columns = [self.features.names.index(name) for name in names]
        heads = {
            "ridge": ridge,
            "boosted": boosted,
            "network": lambda *a: network(*a, epochs=self.how.epochs),
        }
        folds = self._folds(split)
        return predict(heads[head], folds, columns, labels, self.how.seed)

    def _folds(self, split: Split) -> list[Fold]:
        if split.name not in self._made:
            self._made[split.name] = make_folds(self.values, split)
        return self._made[split.name]

    def table(
        self, split: Split, models: dict[str, Model], tell: Callable[[], object]
    ) -> dict[str, Array]:
        """Predictions and scores of every model in one split."""
        taking = split.taking
        blocks, truth = split.ranked[taking], self.truth[taking]
        nulls = scores.shuffles(split.blocks, self.how.shuffles, self.how.seed)
        predictions, p = [], []
        for model in models.values():
            predictions.append(self.predict(split, model, self.truth))
            p.append(self._p(split, model, predictions[-1], nulls))
            tell()
        made = np.array(predictions)
        again = scores.resamples(blocks, self.how.resamples, self.how.seed)
        rho = scores.spearman(truth, made[:, taking], blocks)
        spread = np.array(
            [scores.spearman(truth[rows], made[:, taking][:, rows], blocks) for rows in again]
        )
        # Rows that are drawn twice tie, and ties in small blocks pull a correlation to zero.
        spread = np.clip(spread + rho - spread.mean(0), -1, 1)
        draws = Draws.make(split.blocks[taking], self.how.group, self.how.seed)
        points = [self._points(split, row, again, draws) for row in made]
        ranks = np.stack([rho, *np.quantile(spread, (0.025, 0.975), axis=0)], -1)
        names = list(models)
        return {
            "predictions": made,
            "scores": np.stack([ranks, *np.moveaxis(np.array(points), 1, 0)], axis=1),
            "gains": _gains(names, rho, spread),
            "p": np.array(p),
        }

    def _p(self, split: Split, model: Model, made: Array, nulls: Ints) -> float:
        if model[1] != "ridge" or not model[0]:
            return float("nan")
        taking, blocks = split.taking, split.ranked[split.taking]
        shuffled = self.truth[nulls].T
        drawn = self.predict(split, model, shuffled).T[:, taking]
        chance = scores.spearman(shuffled.T[:, taking], drawn, blocks)
        observed = scores.spearman(self.truth[taking], made[None, taking], blocks)[0]
        return scores.p_value(float(observed), chance)

    def _points(self, split: Split, made: Array, again: Ints, draws: Draws) -> list[Array]:
        # Metrics after the first: one row (value, lower, upper) each.
        taking = split.taking
        blocks, row = split.ranked[taking], made[taking]
        truth = self.truth[taking]
        if split.centered:
            truth = truth - scores.block_means(truth, split.blocks[taking])
        off = np.abs(truth - row)
        explained = [
            scores.determination(truth[rows], row[rows], blocks) for rows in again[:FEWER]
        ]
        losses = self.losses[taking]
        return [
            np.array([scores.kendall(truth, row, blocks), np.nan, np.nan]),
            np.array(
                [
                    scores.determination(truth, row, blocks),
                    *scores.interval(np.array(explained)),
                ]
            ),
            np.array([off.mean(), *scores.interval(off[again].mean(1))]),
            *(np.array(draws.regret(losses, row, top)) for top in (1, 3)),
        ]


def _gains(names: list[str], rho: Array, spread: Array) -> Array:
    gains = np.full((len(names), len(REFERENCES), 3), np.nan)
    for k, reference in enumerate(REFERENCES):
        if f"{reference} / ridge" not in names:
            continue
        base = names.index(f"{reference} / ridge")
        bounds = np.quantile(spread - spread[:, [base]], (0.025, 0.975), axis=0)
        gains[:, k] = np.stack([rho - rho[base], *bounds], -1)
    return gains
