"""The page of two minutes: which recipe, on which evidence, at what cost."""

# ruff: noqa: E501 - rows of a table and the words of a page are one line each

import importlib.util
import json
from pathlib import Path

import larger

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipe"


def _recipe_page():
    spec = importlib.util.spec_from_file_location("recipe_page", RECIPE / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write():
    """README.md beside this file."""
    page = _recipe_page()
    tasks = list(json.loads((RECIPE / "results.json").read_text())["tasks"].values())
    (HERE / "README.md").write_text(_text(page, tasks) + "\n")


def _text(page, tasks):
    choose = [task for task in tasks if task["part"] == "choose"]
    best, free = page.chosen(choose), page.chosen(choose, free=True)
    settings = sum(len(task["horizons"]) for task in tasks)
    return f"""# Which way of steering is worth it?

Two minutes for whoever trains; written by `python docs/studies/steering/run.py pages` from the studies it names.

**Take the recipe.** `la.recipe(model, lr=...)`: AdamW whose gradients are taken between the weights and their average, at a constant
rate, read through a bank of averages of which validation data choose one. It needs no horizon: one training can be read at
any update. On {len(tasks)} small tasks at three lengths each ({settings} settings, {tasks[0]["seeds"]} seeds, rivals tuned over the same rates) it
is ahead of, level with and behind

| {best} | ahead | level | behind |
|---|---|---|---|
{_rows(page, tasks, best)}

**Without a rate**, `la.recipe(model)` finds one (`GrowthPolicy`). The base rate drops out: guessed over three decades it changes
error or loss by {_guess(page, tasks, free)} (median). What it costs is this:

| {free} | ahead | level | behind |
|---|---|---|---|
{_rows(page, tasks, free)}

- **When to tune.** Where you can afford a few trainings, tune a rate (`lossatlas lr` says where to begin) and keep the recipe.
  Where you cannot, leave the rate out; give the validation loss (`training.step(loss, validation=value)`) on few data, and do not
  leave it out for small vision transformers (below): they begin on a plateau, where steps lead nowhere and the rate climbs all
  the same, from 8e-4 to 2e-2 in 88 updates, and the plateau lasts. A warning says so. `GrowthPolicy(unproven_growth=4)` holds the
  rate until the loss has certainly fallen: on four other trainings (MNIST in patches of 7, two and four layers, two seeds each)
  it ends at test losses of 0.94, 0.78, 1.20 and 1.24 instead of 1.01, 0.95, 1.53 and 1.78; a constant rate of 0.003 at 1.05,
  0.87, 1.17 and 1.15. It is not the default: on digits, diabetes, breast cancer and the autoencoder (ten seeds, three
  horizons) it is even with the default or ahead, but on Friedman 17 % behind after 100 updates (4 % after 200 and 400, not told
  apart), as the first losses there are too noisy to prove a fall early.
- **When to decay.** Cosine, WSD and a line that are told the length are hardly ever ahead of the recipe, and need a training
  for each length.
- **Penalties** (SASP, CVP, SBMP) flatten minima, but L2, label smoothing and SAM, tuned alike, lower the test loss further on the
  [problem they were tried on](penalties.md).
- **Controllers that probe the landscape** (`RegimePolicy`, the table of topoadamw) stay at the constant rate in most short trainings.

All settings, every score, where it fails: [the study of the recipe](../recipe/README.md). Longer trainings on MNIST and
CIFAR-10 with controllers: [rates](rates.md). Rates to start with: [the study of suggestions](../lr/README.md).

## Larger models

{_larger()}

## What it costs

{_costs()}

## What to keep in mind

- Small networks and short trainings, seconds to minutes on one core. What holds after days on many GPUs was not looked at.
- Intervals are 95 %, Student's t over seeds, paired, one by one and not corrected for their number.
- The recipe holds four averages and one more copy of the weights, and its model is between weights and average while it trains: read it in
  `training.swapped()`.
"""


def _rows(page, tasks, method):
    rows = []
    for rival in page.RIVALS:
        ahead, even, behind = page.standings(tasks, method, rival)
        rows.append(f"| {rival} | {ahead} | {even} | {behind} |")
    return "\n".join(rows)


def _guess(page, tasks, method):
    costs = sorted(page.guess_cost(t, method, h) for t in tasks for h in t["horizons"])
    return f"{costs[len(costs) // 2]:.1f} %"


def _larger():
    kept = HERE / "larger.json"
    if not kept.exists():
        return "Not measured yet: `python docs/studies/steering/larger.py`."
    done = json.loads(kept.read_text())
    missing = [name for name in larger.MODELS if name not in done]
    lines = [
        "Trained as `--compare` of `lossatlas train` does, 5 seeds, rates in steps of a factor of about 3 of which validation chooses one; rates were added until no chosen one lay at an end of its grid. "
        "Difference to cosine with its 95 % interval. Few updates: these say how the recipe begins on such models, not where it ends."
        + (f" Not done yet: {', '.join(missing)}." if missing else ""),
        "",
        "| | recipe | rate | score | to cosine |",
        "|---|---|---|---|---|",
    ]
    for name, found in done.items():
        points = found["measure"] == "test accuracy"
        for recipe, row in found["recipes"].items():
            mean = sum(row["scores"]) / len(row["scores"])
            shown = f"{100 * mean:.1f} %" if points else f"{mean:.3f}"
            rate = "its own" if "growth" in recipe else f"{row['lr']:g}"
            gap = "" if recipe == "adamw+cosine" else _interval(row["gap"], points)
            lines.append(
                f"| {name}, {found['steps']} updates | {recipe} | {rate} | {shown} | {gap} |"
            )
    return "\n".join(lines)


def _interval(gap, points):
    scale, digits = (100, 1) if points else (1, 3)
    value, low, high = (f"{scale * v:+.{digits}f}" for v in gap)
    return f"{value} [{low}, {high}]"


def _costs():
    lines = [
        "CPU time of a step over that of AdamW alone (one thread of a busy machine, batches of 128, medians of interleaved rounds; good to about 0.05). Averages look at every "
        "update up to update 128 (gamma + 1), and at 64 to 128 a window later, so their cost falls as a training goes on.",
        "",
        "- **Goals.** SASP: 1.15 on the small MLP is missed with the penalty at every step and reached with `every=8` at eight times its weight; 1.03 on the large one is reached within the error. Controllers that "
        "probe: 1.05 is reached. A step of Transformers' Trainer: 1.03 is reached by growth and, within the error, by the averages; a probe makes 17 passes over up to 24 examples, which for batches of 16 is a sixth of a "
        "training's time: `examples=4` there.",
        "- **Large networks: memory.** For each parameter AdamW of torch moves 20 numbers a step on a CPU. A bank of k averages reads the weights once to see that they are finite, and reads and writes: 1 + 3 k; "
        "interpolated gradients read two and write one more, 16 with four averages. With all of them updated in chunks that stay in the cache, 10 would have to move, but this was not faster (1.29 and 1.31 for 1.32). Fewer updates "
        "are (`every=4`).",
        "- **Small networks: calls.** Where a step is 0.6 ms, each operation of torch costs about as much as a layer. SASP is 11 of them, with their derivatives; a softmax and loss alone in its form cost nothing, "
        "the form without checks 1.24, a hand-written derivative 1.34. Growth reads 6 tensors after every step and decides at every fourth, 0.1 ms a step whatever the network.",
        "",
        "| network | with | ratio |",
        "|---|---|---|",
    ]
    for network, found in json.loads((HERE / "costs.json").read_text()).items():
        lines += [f"| {network} | {name} | {ratio:.2f} |" for name, ratio in found.items()]
    return "\n".join(lines)
