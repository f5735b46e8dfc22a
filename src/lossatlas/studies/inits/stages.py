"""Stages 4 and 5 as the pipeline calls them: features, scores, pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lossatlas.executor import Progress, run_tasks
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.rng import derive_seed
from lossatlas.store import Provenance, open_ledger
from lossatlas.studies.inits.baselines import recipe_numbers
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.evaluate import evaluate
from lossatlas.studies.inits.evaluation import Scoring
from lossatlas.studies.inits.features.gather import Column, Measure, Training
from lossatlas.studies.inits.features.neighborhood import Sampling
from lossatlas.studies.inits.files import ledger_of, provenance, stage_identity
from lossatlas.studies.inits.problem import Problem
from lossatlas.studies.inits.quality import Quality
from lossatlas.studies.inits.records import Features, Labels
from lossatlas.studies.inits.settings import InitsSettings
from lossatlas.studies.inits.threads import one_thread

Array = NDArray[np.float64]
# Candidates of a piece: what is lost when a run dies.
PIECE = 15


def measure_features(
    settings: InitsSettings,
    subject: Problem,
    labels: Labels,
    *,
    progress: Progress | None = None,
) -> Features:
    """Measure the features of all labeled candidates."""
    measure = make_measure(settings, subject)
    candidates = labels.candidates
    parts = {
        f"features of candidates from {k}": candidates[k : k + PIECE]
        for k in range(0, len(candidates), PIECE)
    }

    def work(part: Sequence[Candidate]) -> Array:
        with one_thread():
            return measure.table(part)

    recipes = derive_seed(*(c.to_json() for c in candidates))
    run = stage_identity(settings, "features", subject.fingerprint, recipes=recipes)
    with open_ledger(ledger_of(settings, "features"), run) as ledger:
        tables = list(
            run_tasks(
                parts,
                lambda: work,
                executor=settings.executor,
                ledger=ledger,
                progress=progress,
            )
        )
    made = provenance(settings, "features", subject.fingerprint)
    return joined(measure.columns(), np.concatenate(tables), candidates, made)


def make_measure(settings: InitsSettings, subject: Problem) -> Measure:
    """What the settings ask to be measured."""
    how, label = settings.quality, settings.label
    sampling = Sampling(
        planes=how.planes,
        points=how.points,
        radii=how.radii,
        scattered=how.scattered,
        seed=settings.seed,
    )
    training = Training(label.lr, label.optimizer, label.batch_size)
    return Measure(subject, subject.initializer.draw, sampling, training)


def joined(
    columns: Sequence[Column],
    table: Array,
    candidates: Sequence[Candidate],
    made: Provenance,
) -> Features:
    """A table with the recipes as features."""
    recipe = recipe_numbers(candidates)
    every = [*columns, *(Column(name, "baseline") for name in recipe)]
    values = np.concatenate([table, np.stack(list(recipe.values()), axis=1)], axis=1)
    there = np.isfinite(values).any(axis=0)
    kept = [column for column, found in zip(every, there, strict=True) if found]
    return Features(
        tuple(column.name for column in kept),
        tuple(column.group for column in kept),
        values[:, there],
        {column.name: column.cost for column in kept},
        made,
    )


def fit_quality(
    settings: InitsSettings,
    subject: Problem,
    labels: Labels,
    features: Features,
    *,
    progress: Progress | None = None,
) -> Quality:
    """Predict the quality from the features, and score the predictions."""
    how, label = settings.quality, settings.label
    epoch = 3.0 * len(subject.train) / size_of(subject.probe)
    scoring = Scoring(
        folds=how.folds,
        resamples=how.resamples,
        epochs=how.epochs,
        heads=how.heads,
        epoch_cost=epoch,
        fresh=label.schedule != "constant",
        seed=settings.seed,
    )

    made = provenance(settings, "fit-quality", subject.fingerprint)
    return evaluate(
        features,
        labels,
        scoring,
        budget=how.budget,
        measure=how.measure,
        made=made,
        progress=progress,
    )


def draw_figures(settings: InitsSettings, *, progress: Progress | None = None) -> list[Path]:
    """Stage 5: draw what the stages before it left."""
    from lossatlas.studies.inits.figures import draw

    return draw(settings, progress=progress)
