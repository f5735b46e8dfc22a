"""Stage 4: fit every set of features with every head, and score them on the same folds."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.errors import DataError
from lossatlas.executor import Progress
from lossatlas.studies.inits import diagnostics
from lossatlas.studies.inits.evaluation import Evaluator, Scoring, make_models
from lossatlas.studies.inits.quality import Quality
from lossatlas.studies.inits.records import Features, Labels
from lossatlas.studies.inits.sets import set_cost
from lossatlas.studies.inits.validation import SPLITS, make_splits

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


def evaluate(
    features: Features,
    labels: Labels,
    scoring: Scoring | None = None,
    *,
    budget: int | None = None,
    measure: str = "test loss",
    made: store.Provenance | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Predict the loss after training from every set of features."""
    how, budget = scoring or Scoring(), labels.budgets[-1] if budget is None else budget
    losses = labels.quality(budget, measure)
    kept = _usable(features, labels, losses, budget)
    truth = np.log(np.maximum(losses[kept], np.finfo(np.float64).tiny))
    chosen = [c for c, keep in zip(labels.candidates, kept, strict=True) if keep]
    splits = {split.name: split for split in make_splits(chosen, how.folds, how.seed)}
    models = make_models(features, how)
    bench = Evaluator(how, features.values[kept], features, truth, losses[kept])
    tell = _counter(progress, len(splits) * len(models))
    tables = [bench.table(split, models, tell) for split in splits.values()]
    found = _assembled(tables, tuple(splits), kept, len(models))
    tested = [n for n, g in zip(features.names, features.groups, strict=True) if g != "null"]
    choices = diagnostics.selection(
        bench, found["predictions"][0][:, kept], models, labels, kept
    )
    return Quality(
        budget=budget,
        measure=measure,
        splits=SPLITS,
        models=tuple(models),
        features=tuple(tested),
        choices=tuple(choices),
        truth=np.log(np.where(kept, losses, np.nan)),
        cost=np.array([set_cost(features, names) for names, _ in models.values()]),
        ceilings=diagnostics.ceilings(labels, budget, measure, kept, splits),
        selection=np.array(list(choices.values())),
        group=min(how.group, len(truth)),
        diverged=int((~kept).sum()),
        divergence=diagnostics.divergence(features, kept, splits, how.seed),
        notes=diagnostics.notes(splits, kept),
        provenance=made or store.Provenance(how.seed, labels.provenance.settings),
        **diagnostics.single_features(features.of(tested)[kept], truth, splits, how),
        **found,
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
    found: dict[str, Array] = {}
    for key, first in tables[0].items():
        wide = (models, len(kept)) if key == "predictions" else first.shape
        full = np.full((len(SPLITS), *wide), np.nan)
        for name, table in zip(names, tables, strict=True):
            place = full[SPLITS.index(name)]
            place[..., kept if key == "predictions" else slice(None)] = table[key]
        found[key] = full
    return found
