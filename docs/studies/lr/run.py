"""Run the study: `python docs/studies/lr/run.py --shared ../shared [--quick]`.

Writes results.json, the figure and README.md beside this file. What is in results.json is not
done again, and what was done on the way is kept in parts/: a run that was stopped goes on. The
range tests of other packages join where Lightning and torch-lr-finder are installed, but for
the problems that the band alone is judged on.
"""

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import finders
import page
from problems import DEVELOPED, HELD_OUT, JUDGED, OPTIMIZERS, PROBLEMS, setup_of

import lossatlas as la
from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity
from lossatlas.recipes import TrainingSetup, run_recipe
from lossatlas.training import build_model
from lossatlas.training.criteria import build_loss

HERE = Path(__file__).parent
# The best rate of the grid is chosen by these seeds ...
SEEDS = (0, 1, 2)
# ... and compared with what is suggested on others, so that luck is in neither.
FRESH = (3, 4, 5)
HORIZON = 600


def suggestions(
    setup: TrainingSetup, optimizer: str, seed: int, horizon: int, rivals: bool
) -> dict:
    """What each method suggests, from the same start."""
    model = build_model(setup.model, setup.train, seed=seed)
    loss = la.supervised(build_loss(None, task=setup.train.task))
    objective = la.Objective(model, loss, setup.train.batches(setup.batch_size, seed=seed))
    start = time.process_time()
    found = la.suggest_lr(objective, optimizer, horizon=horizon)
    return {
        "lossatlas": found.lr,
        "low": found.low,
        "high": found.high,
        "gradients": found.gradients,
        "seconds": time.process_time() - start,
        "lightning": finders.lightning(setup, optimizer, seed) if rivals else None,
        "torch-lr-finder": finders.torch_lr_finder(setup, optimizer, seed) if rivals else None,
    }


def final_loss(
    setup: TrainingSetup, optimizer: str, lr: float, seed: int, horizon: int
) -> float:
    """The validation loss after a training with cosine decay; infinite where it diverged."""
    run = run_recipe(setup, f"{optimizer}+cosine", lr, seed, horizon)
    value, _ = run.score("raw", "valid loss")
    return value if math.isfinite(value) else math.inf


def measure(name: str, optimizer: str, shared: Path, horizon: int) -> dict:
    """One problem: suggestions, a tuned grid, and trainings at what was suggested."""
    setup, rivals = setup_of(name, shared), name not in JUDGED
    made = {s: suggestions(setup, optimizer, s, horizon, rivals) for s in FRESH}
    grid: dict[int, list[float]] = {}

    def mean(power: int) -> float:
        if power not in grid:
            losses = [final_loss(setup, optimizer, 2.0**power, s, horizon) for s in SEEDS]
            grid[power] = losses
        return sum(grid[power]) / len(SEEDS)

    center = round(sum(math.log2(each["lossatlas"]) for each in made.values()) / len(made))
    # Two rates that are worse on both sides of the best.
    best = center
    while True:
        for power in range(best - 2, best + 3):
            mean(power)
        lowest = min(grid, key=mean)
        if lowest == best:
            break
        best = lowest
    reached = {
        method: [
            final_loss(setup, optimizer, made[s][method], s, horizon)
            if made[s][method]
            else None
            for s in FRESH
        ]
        for method in ("lossatlas", "lightning", "torch-lr-finder")
    }
    return {
        "suggested": [made[s] for s in FRESH],
        "grid": {f"{2.0**power:.6g}": grid[power] for power in sorted(grid)},
        "best": 2.0**best,
        "fresh": [final_loss(setup, optimizer, 2.0**best, s, horizon) for s in FRESH],
        "reached": reached,
    }


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two problems, to try it out")
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/")
    sets = {"developed": DEVELOPED, "held-out": HELD_OUT, "judged": JUDGED, "all": PROBLEMS}
    parser.add_argument("--set", choices=sets, default="all")
    parser.add_argument("--only", nargs="*", help="problems, by name")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    names = sets[asked.set]
    chosen, horizon = (list(names)[:1], 100) if asked.quick else (list(names), HORIZON)
    chosen = [name for name in chosen if not asked.only or name in asked.only]
    (asked.out / "parts").mkdir(parents=True, exist_ok=True)
    kept = asked.out / "results.json"
    before = json.loads(kept.read_text()) if kept.exists() and not asked.quick else {}
    tasks = {
        f"{name} / {o}": (name, o)
        for name in chosen
        for o in OPTIMIZERS
        if f"{name} / {o}" not in before
    }
    run = run_identity("suggested learning rates", {"horizon": horizon, "seeds": SEEDS})
    with open_ledger(asked.out / "parts" / f"lr-{horizon}.sqlite", run) as ledger:
        start = partial(_worker, shared=asked.shared, horizon=horizon)
        found = run_tasks(tasks, start, ledger=ledger, progress=True)
        results = before | dict(zip(tasks, found, strict=True))
    kept.write_text(json.dumps(results, indent=1) + "\n")
    page.write(results, asked.out)


def _worker(shared: Path, horizon: int):
    return lambda task: measure(*task, shared, horizon)


if __name__ == "__main__":
    main()
