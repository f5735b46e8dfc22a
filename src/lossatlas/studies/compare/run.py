"""Run a comparison: every training is kept when it is done, and never done again."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.store import open_ledger, run_identity
from lossatlas.studies.compare.comparison import Comparison, Trial
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import Recipe, parse_recipe
from lossatlas.studies.compare.trial import MEASURES, READINGS, run_trial

Array = NDArray[np.float64]


def compare(
    problem: Problem,
    recipes: Iterable[str],
    *,
    horizons: Sequence[int],
    rates: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    seeds: int = 5,
    only: Mapping[str, Sequence[float]] | None = None,
    resume: str | Path | None = None,
    executor: str | Executor = "serial",
    progress: Progress | bool | None = None,
) -> Comparison:
    """Train every recipe at every rate with every seed, and read it at every horizon.

    Schedules that are told the horizon are trained once for each; the others once for all.
    Every recipe has the same rates, which are its whole tuning; the same seed gives the same
    weights and the same order of the data.

    Args:
        problem: data and model.
        recipes: as for `parse_recipe`.
        horizons: steps, growing.
        rates: base rates. Default 1e-4 to 1e-1.
        seeds: how many, at least 2 for intervals. Default 5.
        only: recipe -> the rates it is trained at, instead of all.
        resume: a file that keeps what is done; None keeps nothing.
        executor: "serial", "joblib", or one of your own.
        progress: called with (done, total, label) after every training.

    Returns:
        The comparison.

    Raises:
        ArgumentError: numbers out of range, or rates in `only` that are not in `rates`.
        UnknownNameError: an unknown recipe or executor.
        ResumeError: the file is damaged or belongs to another comparison.
    """
    parsed = [parse_recipe(text) for text in recipes]
    trials = _trials(parsed, tuple(horizons), rates, seeds, dict(only or {}))
    done = _trained(problem, trials, resume, executor, progress)
    shape = (len(parsed), len(rates), seeds, len(horizons))
    values = np.full((*shape, len(READINGS), len(MEASURES)), np.nan)
    seconds, final = np.full(shape, np.nan), np.full(shape, np.nan)
    names = [recipe.name for recipe in parsed]
    for trial, table in zip(trials, done, strict=True):
        for row in table:
            where = (
                names.index(trial.recipe),
                list(rates).index(trial.lr),
                trial.seed,
                list(horizons).index(int(row[0])),
            )
            values[where] = row[1:-2].reshape(len(READINGS), len(MEASURES))
            seconds[where], final[where] = row[-2:]
    settings = {"recipes": names, "rates": list(rates), "horizons": list(horizons)}
    made = store.Provenance(settings=settings | problem.identity, data=problem.fingerprint)
    return Comparison(
        tuple(names),
        tuple(horizons),
        tuple(rates),
        tuple(range(seeds)),
        values,
        seconds,
        final,
        made,
    )


def _trials(
    recipes: list[Recipe],
    horizons: tuple[int, ...],
    rates: Sequence[float],
    seeds: int,
    only: dict[str, Sequence[float]],
) -> list[Trial]:
    check_at_least("seeds", seeds, 1)
    for rate in rates:
        check_positive("rates", rate)
    if not horizons or any(b <= a for a, b in itertools.pairwise(horizons)):
        raise ArgumentError(f"`horizons` must be growing numbers of steps; got {horizons}.")
    for name, several in only.items():
        if not set(several) <= set(rates):
            raise ArgumentError(f"`only` must name rates out of {list(rates)}; got '{name}'.")
    return [
        Trial(recipe.name, lr, seed, read)
        for seed in range(seeds)
        for recipe in recipes
        for lr in only.get(recipe.name, rates)
        for read in ([(h,) for h in horizons] if recipe.told else [horizons])
    ]


def _trained(
    problem: Problem,
    trials: list[Trial],
    resume: str | Path | None,
    executor: str | Executor,
    progress: Progress | bool | None,
) -> list[Array]:
    def work(trial: Trial) -> Array:
        recipe = parse_recipe(trial.recipe)
        return run_trial(problem, recipe, trial.lr, trial.seed, trial.horizons)

    run = run_identity("recipes", problem.identity, data=problem.fingerprint)
    with open_ledger(resume, run) as ledger:
        jobs = {trial.name: trial for trial in trials}
        return list(
            run_tasks(jobs, lambda: work, executor=executor, ledger=ledger, progress=progress)
        )
