"""What stands beside the scores: noise ceilings, single features, divergence, choosing one."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.errors import DataError
from lossatlas.studies.inits import scores
from lossatlas.studies.inits.evaluation import Evaluator, Model, Scoring
from lossatlas.studies.inits.records import Features, Labels
from lossatlas.studies.inits.regressors import ridge
from lossatlas.studies.inits.reliability import reliability
from lossatlas.studies.inits.selection import Draws, halving_plans, halving_regret
from lossatlas.studies.inits.sets import feature_sets, set_cost
from lossatlas.studies.inits.validation import SPLITS, Split, out_of_fold

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
# Shuffles a feature: Holm's correction multiplies the least p-value by the features.
EACH = 100
# Members that each class needs before the telling of divergence is measured.
FEWEST = 5


def ceilings(
    labels: Labels, budget: int, measure: str, kept: Bools, splits: Mapping[str, Split]
) -> Array:
    """The reliability of the labels within the blocks of each split."""
    found = np.full((len(SPLITS), 3), np.nan)
    values = np.log(np.maximum(labels.of(budget, measure)[kept], np.finfo(np.float64).tiny))
    for name, split in splits.items():
        taking = split.taking
        means = scores.block_means(values[taking].mean(1), split.blocks[taking])
        try:
            icc = reliability(values[taking] - means[:, None])
        except DataError:
            continue
        found[SPLITS.index(name)] = icc.mean, icc.lower, icc.upper
    return found


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
    """How well it can be told beforehand who diverges."""
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
    bench: Evaluator,
    predictions: Array,
    models: Mapping[str, Model],
    labels: Labels,
    kept: Bools,
) -> dict[str, tuple[float, float, float, float]]:
    """Choosing one of many: cost and regret of every predictor and of successive halving."""
    how = bench.how
    draws = Draws.make(np.zeros(len(bench.losses), dtype=np.int64), how.group, how.seed)
    size = draws.groups.shape[1]
    found = {}
    for row, (name, (names, _)) in zip(predictions, models.items(), strict=True):
        cost = size * set_cost(bench.features, names)
        # The means of different folds differ: who knows nothing must not choose by them.
        score = row if names else np.zeros_like(row)
        found[name] = (cost, *draws.regret(bench.losses, score))
    some = [c for c, keep in zip(labels.candidates, kept, strict=True) if keep]
    part = Labels(
        tuple(some),
        labels.budgets,
        labels.orders,
        labels.values[:, kept],
        labels.diverged[kept],
    )
    for plan in halving_plans(labels.budgets, size, fresh=how.fresh):
        cost = plan.epochs * how.epoch_cost
        found[plan.name] = (cost, *halving_regret(part, plan, bench.losses, draws))
    return found


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
