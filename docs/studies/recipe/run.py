"""Run the study, go on with it, or write its page: `python run.py run` or `page`.

Two stages a task: all rates with a few seeds, by which validation chooses a rate for each
recipe and horizon; then the chosen ones with more seeds. What is done is kept in parts/ and
never done again. Needs the data beside the checkout and pytorch_optimizer.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import page
from tasks import TASKS, Task

from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity
from lossatlas.recipes import Run, parse_recipe, run_recipe

HERE = Path(__file__).parent
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# Recipes that are trained at every rate, and those that have none to choose.
TUNED = (
    "adamw+cosine",
    "adamw+wsd",
    "adamw+linear",
    "adamw",
    "schedulefree",
    "adamw+interpolated",
    "adamw+cautious",
    "adamw+cautious+interpolated",
)
FREE = {
    "prodigy": 1.0,
    "adamw+growth": 1e-3,
    "adamw+growth+cautious": 1e-3,
    "adamw+growth+interpolated": 1e-3,
    "adamw+growth+brake": 1e-3,
}
Job = tuple[str, float, int, tuple[int, ...]]


def main() -> None:
    """Run, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "page"])
    parser.add_argument("--parts", type=Path, default=HERE / "parts")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=6, help="of the report, tuning included")
    asked = parser.parse_args()
    kept = HERE / "results.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if asked.what == "page":
        page.write(found, HERE)
        return
    asked.parts.mkdir(exist_ok=True)
    for name in asked.tasks:
        found[name] = measure(name, asked.parts, asked.tuning_seeds, asked.seeds)
        kept.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def measure(name: str, folder: Path, tuning: int, seeds: int) -> dict[str, Any]:
    """Both stages of one task.

    Args:
        name: of the task.
        folder: where what is done is kept.
        tuning: seeds by which rates are chosen.
        seeds: seeds of the report.

    Returns:
        Plain values: recipe -> rate -> seed -> horizon -> scores.
    """
    task = TASKS[name]
    setup = task.make()
    about = setup.identity | {"model": setup.model.rpartition("/")[2], "task": name}
    slug = name.replace(", ", "-").replace(" ", "-")

    def work(job: Job) -> Run:
        recipe, lr, seed, steps = job
        return run_recipe(setup, recipe, lr, seed, steps, averages=["bank"])

    identity = run_identity("recipe study", about, data=setup.fingerprint)
    with open_ledger(folder / f"{slug}.sqlite", identity) as ledger:
        jobs = _jobs(task, range(tuning), dict.fromkeys(TUNED, RATES))
        done = dict(
            zip(jobs, run_tasks(jobs, lambda: work, ledger=ledger, progress=True), strict=True)
        )
        chosen = {r: _chosen(task, setup.train.task, done, r) for r in TUNED}
        more = _jobs(task, range(tuning, seeds), chosen)
        done |= dict(
            zip(more, run_tasks(more, lambda: work, ledger=ledger, progress=True), strict=True)
        )
    return {
        "measure": "accuracy" if setup.train.task == "classification" else "loss",
        "part": task.part,
        "horizons": list(task.horizons),
        "tuning": tuning,
        "seeds": seeds,
        "runs": _plain(done.values()),
    }


def _jobs(task: Task, seeds: range, rates: dict[str, Any]) -> dict[str, Job]:
    jobs = {}
    for seed in seeds:
        for recipe in (*TUNED, *FREE):
            told = parse_recipe(recipe).needs_horizon
            reads = [(h,) for h in task.horizons] if told else [task.horizons]
            wanted = rates[recipe] if recipe in TUNED else (FREE[recipe],)
            for steps in reads:
                for lr in wanted:
                    key = f"{recipe}, rate {lr:g}, seed {seed}, updates {steps}"
                    jobs[key] = (recipe, lr, seed, steps)
    return jobs


# The rates that validation chooses, for any horizon and whatever is read: weights or bank.
def _chosen(task: Task, kind: str, done: dict[str, Run], recipe: str) -> tuple[float, ...]:
    name = "valid accuracy" if kind == "classification" else "valid loss"
    sign = 1 if kind == "classification" else -1
    best = set()
    for horizon in task.horizons:
        for weights in page.READ.get(recipe, ("raw",)):
            means = {
                lr: np.mean(
                    [
                        sign * run.score(weights, name, horizon)[0]
                        for run in done.values()
                        if run.recipe == recipe and run.lr == lr and horizon in run.horizons
                    ]
                )
                for lr in RATES
            }
            best.add(max(means, key=lambda lr: means[lr]))
    return tuple(sorted(best))


def _plain(runs: Any) -> list[dict[str, Any]]:
    return [
        {
            "recipe": run.recipe,
            "lr": run.lr,
            "seed": run.seed,
            "seconds": round(float(run.seconds[-1]), 3),
            "scores": {
                str(h): {
                    w: [
                        float(f"{run.score(w, f'{part} {what}', h)[0]:.5g}")
                        for part in ("valid", "test")
                        for what in ("loss", "accuracy")
                    ]
                    for w in page.READ.get(run.recipe, ("raw",))
                }
                for h in run.horizons
            },
        }
        for run in runs
    ]


if __name__ == "__main__":
    main()
