"""Run the study, check its trainings, measure costs, or write its page.

`python run.py run | check | cost | page`. All rates and seeds of a recipe are trained at once
(`stacked.py`). What is done is kept in parts/ and never done again. Needs the data beside the
checkout, and for `check` and `cost` pytorch_optimizer.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import page
import torch
from stacked import Training
from tasks import TASKS, Task

from lossatlas.recipes import TrainingSetup, parse_recipe, run_recipe
from lossatlas.training.dataset import Dataset

HERE = Path(__file__).parent
SEEDS = 10
# What growth starts from: three decades apart, to show that it does not matter.
BASE = (1e-4, 3e-3, 1e-1)
TOLD = ("adamw+cosine", "adamw+wsd", "adamw+linear")
RECIPES = (
    *TOLD,
    "schedulefree",
    "adamw",
    "adamw+cautious",
    "adamw+interpolated=0",
    "adamw+interpolated=4",
    "adamw+interpolated=16",
    "prodigy",
    "adamw+growth",
    "adamw+growth+cautious",
    "adamw+growth+interpolated=0",
    "adamw+growth+interpolated=4",
    "adamw+growth+interpolated=16",
    "adamw+growth+brake",
)
# Clearly behind on the tasks to choose on, and left out of the others.
DROPPED = ("adamw+interpolated=0", "adamw+growth+interpolated=0")
Found = dict[str, Any]


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "check", "cost", "page"])
    parser.add_argument("--parts", type=Path, default=HERE / "parts")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kept = HERE / "results.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"tasks": {}}
    if asked.what == "run":
        asked.parts.mkdir(exist_ok=True)
        for name in asked.tasks:
            found["tasks"][name] = measure(name, asked.recipes, asked.parts)
    elif asked.what != "page":
        found[asked.what] = {"check": check, "cost": cost}[asked.what]()
    kept.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    if asked.what == "page":
        page.write(found, HERE, TASKS)


def measure(name: str, recipes: list[str], folder: Path) -> Found:
    """All recipes of one task.

    Args:
        name: of the task.
        recipes: which.
        folder: where what is done is kept.

    Returns:
        Plain values: recipe -> rate -> horizon -> weights -> mean on validation, tests by seed.
    """
    task = TASKS[name]
    setup = task.make()
    runs = {}
    wanted = [r for r in recipes if task.part == "choose" or r not in DROPPED]
    for recipe in wanted:
        file = folder / f"{name}, {recipe}.json".replace(" ", "_")
        if not file.exists():
            began = time.process_time()
            done = trained(task, setup, recipe)
            file.write_text(json.dumps(done))
            print(f"{name}, {recipe}: {time.process_time() - began:.0f} s", flush=True)
        runs[recipe] = json.loads(file.read_text())
    about = {"part": task.part, "horizons": list(task.horizons), "seeds": SEEDS}
    return about | {"measure": task.measure, "runs": runs}


def trained(task: Task, setup: TrainingSetup, recipe: str) -> Found:
    """One recipe at all rates with all seeds.

    Args:
        task: the task.
        setup: its data and model.
        recipe: what to train.

    Returns:
        rate -> horizon -> weights -> mean on validation and tests by seed.
    """
    rates = grid(task, recipe)
    members = [(lr, seed) for lr in rates for seed in range(SEEDS)]
    each = [lr for lr, _ in members], [seed for _, seed in members]
    told = parse_recipe(recipe).needs_horizon
    found: Found = {f"{lr:g}": {} for lr in rates}
    for horizons in [(h,) for h in task.horizons] if told else [task.horizons]:
        for horizon, scores in Training(setup, recipe, *each).run(horizons).items():
            for weights, values in page.banked(scores, task.measure).items():
                for row, lr in enumerate(rates):
                    part = values[row * SEEDS : (row + 1) * SEEDS]
                    found[f"{lr:g}"].setdefault(str(horizon), {})[weights] = {
                        "valid": _short(part[:, 0].mean()),
                        "test": [_short(v) for v in part[:, 1]],
                    }
    return found


def grid(task: Task, recipe: str) -> tuple[float, ...]:
    """The rates at which a recipe is trained.

    Args:
        task: the task.
        recipe: of `RECIPES`.

    Returns:
        Growing rates.
    """
    if recipe == "prodigy":
        return (1.0,)
    return BASE if "growth" in recipe else task.rates


def check() -> dict[str, float]:
    """Compare every stacked recipe with the classes of the library, in float64.

    Returns:
        recipe -> greatest difference of a weight over the largest weight, after 30 updates.
    """
    setup = _doubled(TASKS["digits"].make())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return {recipe: _difference(setup, recipe) for recipe in RECIPES}
    finally:
        torch.set_default_dtype(before)


def _difference(setup: TrainingSetup, recipe: str) -> float:
    lr = 1.0 if recipe == "prodigy" else 0.01
    kept: dict[str, Any] = {}
    names = ["average-0", "average-4", "average", "average-64"]
    run_recipe(setup, recipe, lr, 1, 30, averages=names, keep=kept)
    stack = Training(setup, recipe, [lr / 2, lr], [0, 1])
    stack.run((30,), test=False)
    pairs = [(kept[n], stack.averages[g]) for n, g in zip(names, (0, 4, 16, 64), strict=True)]
    if recipe == "schedulefree":
        pairs = [(kept["raw"], stack.rule.average(stack.weights))]
    elif stack.towards is None:
        pairs.append((kept["raw"], stack.weights))
    gaps = []
    for real, flat in pairs:
        whole = torch.cat([real[n].flatten() for n in stack.network.shapes])
        gaps.append(float((whole - flat[1]).abs().max() / whole.abs().max()))
    print(f"{recipe}: {max(gaps):.1e}", flush=True)
    return float(f"{max(gaps):.2g}")


def cost(rounds: int = 5, steps: int = 60) -> dict[str, float]:
    """CPU time of the library's own trainings over that of AdamW at a constant rate.

    Args:
        rounds: trainings of each recipe, in turns.
        steps: updates of each.

    Returns:
        recipe -> ratio of medians.
    """
    setup = TASKS["MNIST"].make()
    times: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
    for number in range(rounds):
        for recipe in RECIPES:
            run = run_recipe(setup, recipe, 0.01, number, steps, averages=["bank"])
            times[recipe].append(float(run.seconds[-1]))
    base = np.median(times["adamw"])
    return {recipe: round(float(np.median(t) / base), 3) for recipe, t in times.items()}


def _doubled(setup: TrainingSetup) -> TrainingSetup:
    def double(data: Dataset) -> Dataset:
        return replace(data, inputs=data.inputs.double())

    change: Callable[..., TrainingSetup] = replace
    parts = {name: double(getattr(setup, name)) for name in ("train", "valid", "test")}
    return change(setup, **parts)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    main()
