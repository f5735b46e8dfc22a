"""Train recipes at some rates with some seeds, on all cores, and go on after a stop."""

from collections.abc import Sequence
from pathlib import Path

from lossatlas import store
from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.store import open_ledger, run_identity
from lossatlas.studies.compare.losses import check_served
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import parse_recipe
from lossatlas.studies.compare.training import Training, Weights, run_training
from lossatlas.studies.compare.trainings import Array, Trainings


def train_recipes(
    problem: Problem,
    recipes: Sequence[str],
    *,
    steps: int,
    rates: Sequence[float] = (1e-3,),
    seeds: int = 5,
    device: str = "cpu",
    resume: str | Path | None = None,
    executor: str | Executor = "serial",
    progress: Progress | bool | None = None,
    keep: dict[str, Weights] | None = None,
) -> Trainings:
    """Train every recipe at every rate with every seed.

    The same seed gives the same weights and the same order of the data, so recipes are
    compared seed by seed. The rates are the whole tuning, the same for all; the best one is
    chosen on the validation examples, scores are those of the test examples.

    Args:
        problem: data and model.
        recipes: as for `parse_recipe`; the others are held to the first.
        steps: updates.
        rates: base rates. Default 1e-3.
        seeds: how many; intervals need at least 2. Default 5.
        device: where to train. Default "cpu".
        resume: a file that keeps what is done; None keeps nothing.
        executor: "serial", "joblib", or one of your own.
        progress: called with (done, total, label) after every training.
        keep: filled with the final states, "raw" and "average"; for a single training.

    Returns:
        The trainings.

    Raises:
        ArgumentError: numbers out of range, a recipe twice, or one that these data or this
            loss cannot have.
        UnknownNameError: an unknown recipe or executor.
        ResumeError: the file is damaged or belongs to another comparison.

    Examples:
        >>> from lossatlas.training import load_dataset
        >>> data = load_dataset("digits", examples=90)
        >>> problem = Problem(data.take(50), data.skip(70), data.take(70).skip(50), "mlp(4)")
        >>> found = train_recipes(problem, ["sgd", "sgd+average"], steps=2, seeds=2)
        >>> len(found.trainings), found.difference("sgd+average", "test accuracy").pairs
        (2, 2)
    """
    _check(problem, recipes, steps, rates, seeds)
    trained = list(dict.fromkeys(parse_recipe(text).trained for text in recipes))
    jobs = {
        f"{name}, rate {lr!r}, seed {seed}": (name, lr, seed)
        for seed in range(seeds)
        for name in trained
        for lr in rates
    }
    if keep is not None and len(jobs) > 1:
        raise ArgumentError(f"`keep` is for a single training; got {len(jobs)} of them.")

    def work(job: tuple[str, float, int]) -> Array:
        return run_training(problem, *job, steps, device=device, keep=keep).to_array()

    about = problem.identity | {"steps": steps, "device": device}
    run = run_identity("trainings", about, data=problem.fingerprint)
    with open_ledger(resume, run) as ledger:
        done = list(
            run_tasks(jobs, lambda: work, executor=executor, ledger=ledger, progress=progress)
        )
    settings = problem.identity | {"steps": steps, "rates": list(rates), "seeds": seeds}
    made = store.Provenance(settings=settings, data=problem.fingerprint)
    return Trainings(
        tuple(recipes),
        tuple(rates),
        tuple(range(seeds)),
        steps,
        tuple(Training.from_array(row) for row in done),
        problem.train.task,
        made,
    )


def _check(
    problem: Problem, recipes: Sequence[str], steps: int, rates: Sequence[float], seeds: int
) -> None:
    check_at_least("steps", steps, 1)
    check_at_least("seeds", seeds, 1)
    for rate in rates:
        check_positive("lr", rate)
    if not recipes or not rates:
        raise ArgumentError("`recipes` and `rates` must hold at least one each.")
    twice = next((name for name in recipes if list(recipes).count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"`recipes` must be different; got '{twice}' twice.")
    for name in recipes:
        check_served(parse_recipe(name), problem.criterion, problem.train)
