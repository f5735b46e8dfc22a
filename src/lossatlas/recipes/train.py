"""Train recipes at some rates with some seeds, on all cores, and go on after a stop."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.executor.executors import ExecutorName
from lossatlas.io import Provenance, open_ledger, run_identity
from lossatlas.recipes.losses import check_served
from lossatlas.recipes.recipe import Recipe, parse_recipe
from lossatlas.recipes.run import Run, Weights, check_horizons, run_recipe
from lossatlas.recipes.runs import Runs
from lossatlas.recipes.setup import TrainingSetup

# What one training needs: a recipe, a base rate, a seed, and when it is read.
Job = tuple[Recipe, float, int, tuple[int, ...]]


def train_recipes(
    setup: TrainingSetup,
    recipes: Sequence[str | Recipe],
    *,
    steps: int | Sequence[int],
    rates: Sequence[float] = (1e-3,),
    seeds: int = 5,
    only: Mapping[str, Sequence[float]] | None = None,
    averages: Sequence[str] = (),
    device: str = "cpu",
    resume: str | Path | None = None,
    executor: ExecutorName | Executor = "serial",
    progress: Progress | bool | None = None,
    keep: dict[str, Weights] | None = None,
) -> Runs:
    """Train every recipe at every rate with every seed.

    The same seed gives the same weights and the same order of the data, so recipes are
    compared seed by seed. The rates are the whole tuning, the same for all; the best one is
    chosen on the validation examples, scores are those of the test examples.

    Args:
        setup: data and model.
        recipes: as for `parse_recipe`; the others are compared with the first.
        steps: updates; several growing numbers read every run at each of them. A schedule that
            needs the number in advance is trained once for each, everything else once.
        rates: base rates.
        seeds: how many; intervals need at least 2.
        only: recipe -> the rates it is trained at, instead of all.
        averages: names of `AVERAGES` to read beside "raw" and "average".
        device: where to train.
        resume: a file that keeps what is done; None keeps nothing.
        executor: "serial", "joblib", or one of your own.
        progress: called with (done, total, label) after every training; True shows it.
        keep: filled with the final states, "raw" and "average"; for a single training.

    Returns:
        The runs.

    Raises:
        ArgumentError: numbers out of range, rates in `only` that are not in `rates`, a recipe
            twice, or one that these data or this loss cannot have.
        UnknownNameError: an unknown recipe, average or executor.
        ResumeError: the file is damaged or belongs to another comparison.

    Examples:
        >>> from lossatlas.training import load_dataset
        >>> data = load_dataset("digits", examples=90)
        >>> rest = data.skip(50)
        >>> setup = TrainingSetup(data.take(50), rest.take(20), rest.skip(20), "mlp(4)")
        >>> found = train_recipes(setup, ["sgd", "sgd+average"], steps=2, seeds=2)
        >>> len(found.runs), found.difference("sgd+average", "test accuracy").samples
        (2, 2)
    """
    horizons, parsed = check_horizons(steps), [parse_recipe(recipe) for recipe in recipes]
    _check(setup, parsed, rates, seeds, dict(only or {}))
    jobs = _jobs(parsed, tuple(rates), seeds, horizons, dict(only or {}))
    if keep is not None and len(jobs) > 1:
        raise ArgumentError(f"`keep` is for a single training; got {len(jobs)} of them.")

    # Recipes that only differ in the weights that are read share a run.
    banked = any(recipe.weights == "bank" for recipe in parsed)
    averages = [*dict.fromkeys((*averages, *(("bank",) if banked else ())))]

    def work(job: Job) -> Run:
        return run_recipe(setup, *job, averages=averages, device=device, keep=keep)

    about = setup.identity | {"averages": list(averages), "device": device}
    run = run_identity("train_recipes", about, data=setup.fingerprint)
    with open_ledger(resume, run) as ledger:
        runs = tuple(
            run_tasks(jobs, lambda: work, executor=executor, ledger=ledger, progress=progress)
        )
    settings = setup.identity | {"steps": list(horizons), "rates": list(rates), "seeds": seeds}
    return Runs(
        recipes=tuple(parsed),
        rates=tuple(rates),
        seeds=tuple(range(seeds)),
        horizons=horizons,
        runs=runs,
        task=setup.train.task,
        provenance=Provenance(settings=settings, data=setup.fingerprint),
    )


def _jobs(
    recipes: Sequence[Recipe],
    rates: tuple[float, ...],
    seeds: int,
    horizons: tuple[int, ...],
    only: dict[str, Sequence[float]],
) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    for seed in range(seeds):
        for recipe in recipes:
            read = [(h,) for h in horizons] if recipe.needs_horizon else [horizons]
            for lr in only.get(recipe.name, rates):
                for steps in read:
                    at = ", ".join(map(str, steps))
                    key = f"{recipe.trained}, rate {lr!r}, seed {seed}, updates {at}"
                    jobs.setdefault(key, (recipe, float(lr), seed, steps))
    return jobs


def _check(
    setup: TrainingSetup,
    recipes: Sequence[Recipe],
    rates: Sequence[float],
    seeds: int,
    only: dict[str, Sequence[float]],
) -> None:
    check_at_least("seeds", seeds, 1)
    for rate in rates:
        check_positive("rates", rate)
    if not recipes or not rates:
        raise ArgumentError("`recipes` and `rates` must hold at least one each.")
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"`recipes` must be different; got '{twice}' twice.")
    for name, several in only.items():
        if not several or not set(several) <= set(rates):
            raise ArgumentError(f"`only` must name rates out of {list(rates)}; got '{name}'.")
    for recipe in recipes:
        check_served(recipe, setup.criterion, setup.train)
