"""Stage 4, second half: fit every set of features with every regressor, score them all alike.

Beside the scores stand noise ceilings, single features, divergence, and choosing one of many,
also by successive halving on the recorded trainings.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas import io
from lossatlas.errors import DataError
from lossatlas.executor import Progress
from lossatlas.inits import scores
from lossatlas.inits.features import BROAD, DEEP, Features, feature_sets, set_cost
from lossatlas.inits.labels import Labels, reliability
from lossatlas.inits.paths import provenance
from lossatlas.inits.problem import Problem
from lossatlas.inits.quality import REFERENCES, Quality
from lossatlas.inits.regressors import REGRESSORS, network, ridge
from lossatlas.inits.scores import GROUP, Draws, interval
from lossatlas.inits.settings import InitsSettings, QualitySettings
from lossatlas.inits.validation import (
    SPLITS,
    Fold,
    Split,
    make_folds,
    make_splits,
    out_of_fold,
    predict,
)
from lossatlas.objective.batches import batch_size as size_of

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Names of the features, and the regressor.
Model = tuple[tuple[str, ...], str]
# Bootstrap samples of what is slow to compute.
FEWER = 300


class Scoring(QualitySettings):
    """How predictions are made and scored: the settings of stage 4, and what goes with them.

    Attributes:
        shuffles: of the labels behind each p-value.
        group: candidates that one is chosen from.
        epoch_cost: forward passes over the probe that one epoch of training costs.
        fresh: whether a longer training is one of its own, and no continuation.
        seed: of folds, regressors, shuffles and resamples.
    """

    shuffles: int = 999
    group: int = GROUP
    epoch_cost: float = 0.0
    fresh: bool = True
    seed: int = 0


def make_models(features: Features, how: Scoring) -> dict[str, Model]:
    """Every set of features with every regressor that suits it."""
    models: dict[str, Model] = {}
    for name, names in feature_sets(features).items():
        models[f"{name} / ridge"] = (names, "ridge")
        if "boosted" in how.regressors and name in BROAD:
            models[f"{name} / boosted"] = (names, "boosted")
        if "network" in how.regressors and name in DEEP:
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
        names, regressor = model
        columns = [self.features.names.index(name) for name in names]
        regressors = REGRESSORS | {"network": partial(network, epochs=self.how.epochs)}
        folds = self._folds(split)
        return predict(regressors[regressor], folds, columns, labels, self.how.seed)

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


@dataclass(frozen=True)
class Plan:
    """One way of successive halving: how many are trained how long.

    Attributes:
        name: as in "halving: 32 x 1, 6 x 5 epochs".
        rungs: (candidates, position of the budget) of each.
        epochs: candidate-epochs of the whole group.
    """

    name: str
    rungs: tuple[tuple[int, int], ...]
    epochs: float


def halving_plans(budgets: Sequence[int], group: int, *, fresh: bool) -> tuple[Plan, ...]:
    """Plans of growing cost: all trained for one budget, and thinned out over several."""
    plans = []
    for rungs in range(1, len(budgets) + 1):
        keep = [max(math.ceil(group ** (1 - k / rungs) - 1e-9), 1) for k in range(rungs)]
        plans.append(tuple(zip(keep, range(rungs), strict=True)))
    plans += [((group, position),) for position in range(1, len(budgets))]
    return tuple(
        Plan(_plan_name(plan, budgets), plan, _epochs(plan, budgets, fresh=fresh))
        for plan in plans
    )


def _plan_name(plan: Sequence[tuple[int, int]], budgets: Sequence[int]) -> str:
    parts = ", ".join(f"{count} x {budgets[position]}" for count, position in plan)
    return f"train {parts} epochs" if len(plan) == 1 else f"halving {parts} epochs"


def _epochs(plan: Sequence[tuple[int, int]], budgets: Sequence[int], *, fresh: bool) -> float:
    spent, before = 0.0, 0
    for count, position in plan:
        spent += count * (budgets[position] - (0 if fresh else before))
        before = budgets[position]
    return spent


def halving_regret(
    labels: Labels, plan: Plan, quality: Array, draws: Draws
) -> tuple[float, float, float]:
    """The regret of successive halving on recorded trainings."""
    worst = quality[np.isfinite(quality)].max()
    losses = np.where(np.isfinite(quality), quality, worst)
    rungs = [
        np.nan_to_num(labels.of(labels.budgets[position], "train loss")[:, 0], nan=np.inf)
        for _, position in plan.rungs
    ]
    keeps = [*(count for count, _ in plan.rungs[1:]), 1]

    def lost(groups: Ints) -> Array:
        left = groups
        for rung, keep in zip(rungs, keeps, strict=True):
            order = np.argsort(rung[left], axis=-1, kind="stable")[..., :keep]
            left = np.take_along_axis(left, order, -1)
        return np.asarray(losses[left[..., 0]] - losses[groups].min(-1))

    return (float(lost(draws.groups).mean()), *interval(lost(draws.again).mean(-1)))


# Shuffles a feature: Holm's correction multiplies the least p-value by the features.
EACH = 100
# Members that each class needs before the telling of divergence is measured.
FEWEST = 5


def ceilings(
    labels: Labels, budget: int, measure: str, kept: Bools, splits: Mapping[str, Split]
) -> Array:
    """The reliability of the labels within the blocks of each split."""
    shares = np.full((len(SPLITS), 3), np.nan)
    values = np.log(np.maximum(labels.of(budget, measure)[kept], np.finfo(np.float64).tiny))
    for name, split in splits.items():
        taking = split.taking
        means = scores.block_means(values[taking].mean(1), split.blocks[taking])
        try:
            icc = reliability(values[taking] - means[:, None])
        except DataError:
            continue
        shares[SPLITS.index(name)] = icc.mean, icc.lower, icc.upper
    return shares


def single_features(
    values: Array, truth: Array, splits: Mapping[str, Split], how: Scoring
) -> dict[str, Array]:
    """The rank correlation of each single feature, with what chance would give."""
    rho = np.full((len(SPLITS), values.shape[1]), np.nan)
    p = np.full_like(rho, np.nan)
    for name, split in splits.items():
        taking, place = split.taking, SPLITS.index(name)
        count = max(how.shuffles, EACH * values.shape[1])
        total = np.zeros((1 + count, values.shape[1]))
        blocks = split.blocks[taking]
        orders = scores.shuffles(blocks, count, how.seed)
        orders = np.concatenate([np.arange(len(blocks))[None], orders])
        for block in np.unique(blocks):
            inside = np.flatnonzero(blocks == block)
            ranks = _unit_ranks(values[taking][inside].T)
            goal = _unit_ranks(truth[taking][orders[:, inside]])
            total += len(inside) * goal @ ranks.T
        total /= len(blocks)
        rho[place] = total[0]
        as_large = (np.abs(total[1:]) >= np.abs(total[0]) - 1e-12).sum(0)
        p[place] = scores.holm((1 + as_large) / (1 + count))
    return {"feature_rho": rho, "feature_p": p}


def _unit_ranks(rows: Array) -> Array:
    filled = np.where(np.isfinite(rows), rows, np.nanmedian(rows, axis=-1, keepdims=True))
    ranks = stats.rankdata(filled, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.asarray(np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0))


def divergence(
    features: Features, kept: Bools, splits: Mapping[str, Split], seed: int
) -> dict[str, float]:
    """How well divergence can be predicted before training."""
    gone = (~kept).astype(np.float64)
    if min(gone.sum(), kept.sum()) < FEWEST or "pooled" not in splits:
        return {}
    fold = np.empty(len(gone), dtype=np.int64)
    source = scores.random_source("divergence", seed)
    for group in (kept, ~kept):
        members = source.permutation(np.flatnonzero(group))
        fold[members] = np.arange(len(members)) % FEWEST
    split = Split("pooled", fold, np.zeros(len(gone), dtype=np.int64))
    areas = {}
    for name, names in feature_sets(features).items():
        if names:
            score = out_of_fold(ridge, features.of(names), gone, split, seed)
            ranks = stats.rankdata(score)[~kept]
            wins = ranks.sum() - len(ranks) * (len(ranks) + 1) / 2
            areas[name] = float(wins / (len(ranks) * kept.sum()))
    return areas


def selection(
    evaluator: Evaluator,
    predictions: Array,
    models: Mapping[str, Model],
    labels: Labels,
    kept: Bools,
) -> dict[str, tuple[float, float, float, float]]:
    """Choosing one of many: cost and regret of every predictor and of successive halving."""
    how = evaluator.how
    draws = Draws.make(np.zeros(len(evaluator.losses), dtype=np.int64), how.group, how.seed)
    size = draws.groups.shape[1]
    choices = {}
    for row, (name, (names, _)) in zip(predictions, models.items(), strict=True):
        cost = size * set_cost(evaluator.features, names)
        # The means of different folds differ: who knows nothing must not choose by them.
        score = row if names else np.zeros_like(row)
        choices[name] = (cost, *draws.regret(evaluator.losses, score))
    finite = replace(
        labels,
        candidates=tuple(c for c, keep in zip(labels.candidates, kept, strict=True) if keep),
        values=labels.values[:, kept],
        diverged=labels.diverged[kept],
    )
    for plan in halving_plans(labels.budgets, size, fresh=how.fresh):
        cost = plan.epochs * how.epoch_cost
        choices[plan.name] = (cost, *halving_regret(finite, plan, evaluator.losses, draws))
    return choices


def notes(splits: Mapping[str, Split], kept: Bools) -> tuple[str, ...]:
    """What a reader should know."""
    said = []
    if not kept.all():
        said.append(
            f"{(~kept).sum()} of {len(kept)} candidates diverged; they are left out of the "
            "scores."
        )
    if "leave-scheme-out" not in splits:
        said.append("There is one scheme only: no scheme can be left out.")
    if "scale-matched" not in splits:
        said.append(
            "No eight candidates share scheme and scale: what only the seed decides is not "
            "scored (set label.matched above 0, or label more)."
        )
    return tuple(said)


def evaluate(
    features: Features,
    labels: Labels,
    scoring: Scoring | None = None,
    *,
    made: io.Provenance | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Predict the loss after training from every set of features, and score the predictions.

    Args:
        features: what is known of each candidate.
        labels: what became of them, in the same order.
        scoring: how predictions are made and scored.
        made: where the result comes from.
        progress: called with (done, total, label) after every model.

    Returns:
        The scores.

    Raises:
        DataError: labels that do not go with the features, or that cannot be predicted.
    """
    how = scoring or Scoring()
    budget = labels.budgets[-1] if how.budget is None else how.budget
    losses = labels.quality(budget, how.measure)
    kept = _usable(features, labels, losses, budget)
    truth = np.log(np.maximum(losses[kept], np.finfo(np.float64).tiny))
    chosen = [c for c, keep in zip(labels.candidates, kept, strict=True) if keep]
    splits = {split.name: split for split in make_splits(chosen, how.folds, how.seed)}
    models = make_models(features, how)
    evaluator = Evaluator(how, features.values[kept], features, truth, losses[kept])
    tell = _counter(progress, len(splits) * len(models))
    parts = [evaluator.table(split, models, tell) for split in splits.values()]
    tables = _assembled(parts, tuple(splits), kept, len(models))
    tested = [n for n, g in zip(features.names, features.groups, strict=True) if g != "null"]
    choices = selection(evaluator, tables["predictions"][0][:, kept], models, labels, kept)
    return Quality(
        budget=budget,
        measure=how.measure,
        splits=SPLITS,
        models=tuple(models),
        features=tuple(tested),
        choices=tuple(choices),
        schemes=tuple(labels.schemes.tolist()),
        truth=np.log(np.where(kept, losses, np.nan)),
        cost=np.array([set_cost(features, names) for names, _ in models.values()]),
        ceilings=ceilings(labels, budget, how.measure, kept, splits),
        selection=np.array(list(choices.values())),
        group=min(how.group, len(truth)),
        diverged=int((~kept).sum()),
        divergence=divergence(features, kept, splits, how.seed),
        notes=notes(splits, kept),
        provenance=made or io.Provenance(how.seed, labels.provenance.settings),
        **single_features(features.of(tested)[kept], truth, splits, how),
        **tables,
    )


def _counter(progress: Progress | None, total: int) -> Callable[[], object]:
    done = itertools.count(1)
    return lambda: progress(next(done), total, "models") if progress is not None else None


def _usable(features: Features, labels: Labels, losses: Array, budget: int) -> Bools:
    if len(features.values) != len(labels):
        raise DataError(
            f"features of {len(features.values)} candidates do not go with labels of "
            f"{len(labels)}; measure features for these labels."
        )
    kept = labels.finite(budget) & np.isfinite(losses)
    if not kept.any():
        raise DataError(
            f"all {len(labels)} candidates diverged within {budget} epochs; there is nothing "
            "to rank: label again with a smaller rate (--set label.lr=...)."
        )
    if np.ptp(losses[kept]) == 0:
        raise DataError(
            f"the loss after {budget} epochs is {losses[kept][0]:g} for all {kept.sum()} "
            "candidates; labels that do not vary cannot be predicted: choose another budget "
            "or measure."
        )
    return kept


def _assembled(
    tables: list[dict[str, Array]], names: tuple[str, ...], kept: Bools, models: int
) -> dict[str, Array]:
    # Splits that cannot be made, and candidates that diverged, are NaN.
    assembled: dict[str, Array] = {}
    for key, first in tables[0].items():
        wide = (models, len(kept)) if key == "predictions" else first.shape
        full = np.full((len(SPLITS), *wide), np.nan)
        for name, table in zip(names, tables, strict=True):
            place = full[SPLITS.index(name)]
            place[..., kept if key == "predictions" else slice(None)] = table[key]
        assembled[key] = full
    return assembled


def fit_quality(
    settings: InitsSettings,
    problem: Problem,
    labels: Labels,
    features: Features,
    *,
    progress: Progress | None = None,
) -> Quality:
    """Predict the quality from the features, and score the predictions."""
    scoring = Scoring(
        **settings.quality.model_dump(),
        epoch_cost=3.0 * len(problem.train) / size_of(problem.probe),
        fresh=settings.label.schedule != "constant",
        seed=settings.seed,
    )
    made = provenance(settings, "fit-quality", problem.fingerprint)
    return evaluate(features, labels, scoring, made=made, progress=progress)
