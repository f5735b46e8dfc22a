"""The page of the study: who is ahead of whom, on which tasks, at which rates, at what cost."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.recipes import paired, verdict

Found = dict[str, Any]
# What the page calls a recipe and the weights that it is read by.
METHODS = {
    "cosine, told": ("adamw+cosine", "raw"),
    "WSD, told": ("adamw+wsd", "raw"),
    "linear, told": ("adamw+linear", "raw"),
    "schedule-free": ("schedulefree", "raw"),
    "constant + average": ("adamw", "average"),
    "constant + bank": ("adamw", "bank"),
    "cautious + bank": ("adamw+cautious", "bank"),
    "interpolated + bank": ("adamw+interpolated", "bank"),
    "cautious + interpolated + bank": ("adamw+cautious+interpolated", "bank"),
    "Prodigy + bank": ("prodigy", "bank"),
    "growth + bank": ("adamw+growth", "bank"),
    "growth + cautious + bank": ("adamw+growth+cautious", "bank"),
    "growth + interpolated + bank": ("adamw+growth+interpolated", "bank"),
    "growth + brake + bank": ("adamw+growth+brake", "bank"),
}
RIVALS = tuple(METHODS)[:4]
# Recipe -> the weights it may be read by; "raw" where there is none.
READ: dict[str, tuple[str, ...]] = {}
for _recipe, _weights in METHODS.values():
    if _weights != "raw":
        READ[_recipe] = (*READ.get(_recipe, ()), _weights)
SIGNS = {"accuracy": 1, "loss": -1}
PLACES = {("valid", "loss"): 0, ("valid", "accuracy"): 1, ("test", "loss"): 2}
PLACES[("test", "accuracy")] = 3


def write(found: Found, folder: Path) -> None:
    """Write README.md.

    Args:
        found: results of all tasks that are done.
        folder: where.
    """
    (folder / "README.md").write_text("\n".join(_lines(found)) + "\n")


def scores(task: Found, method: str, horizon: int, part: str, lr: float) -> dict[int, float]:
    """Seed -> score of a method at a rate.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.
        part: "valid" or "test".
        lr: the rate.

    Returns:
        Scores of the task's measure.
    """
    recipe, weights = METHODS[method]
    place = PLACES[part, task["measure"]]
    return {
        run["seed"]: run["scores"][str(horizon)][weights][place]
        for run in task["runs"]
        if run["recipe"] == recipe and run["lr"] == lr and str(horizon) in run["scores"]
    }


def rates(task: Found, method: str) -> list[float]:
    """The rates that a method was trained at with the tuning seeds.

    Args:
        task: results of one task.
        method: of `METHODS`.

    Returns:
        Growing rates.
    """
    return sorted({r["lr"] for r in task["runs"] if r["recipe"] == METHODS[method][0]})


def best_rate(task: Found, method: str, horizon: int) -> float:
    """The rate that validation chooses on the tuning seeds.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.

    Returns:
        A rate.
    """
    sign = SIGNS[task["measure"]]

    def mean(lr: float) -> float:
        seen = scores(task, method, horizon, "valid", lr)
        values = [sign * seen[seed] for seed in range(task["tuning"])]
        return float(np.mean([v if np.isfinite(v) else -1e9 for v in values]))

    return max(rates(task, method), key=mean)


def tuned(task: Found, method: str, horizon: int) -> np.ndarray:
    """Test scores of all seeds at the chosen rate.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.

    Returns:
        Shape (seeds,).
    """
    seen = scores(task, method, horizon, "test", best_rate(task, method, horizon))
    return np.array([seen[seed] for seed in range(task["seeds"])])


def compared(task: Found, method: str, rival: str, horizon: int) -> tuple[str, float]:
    """How a method stands to another one, seed by seed.

    Args:
        task: results of one task.
        method: of `METHODS`.
        rival: likewise.
        horizon: updates.

    Returns:
        "ahead", "even" or "behind", and the mean difference, larger is better.
    """
    sign = SIGNS[task["measure"]]
    ours, theirs = (sign * tuned(task, name, horizon) for name in (method, rival))
    gap = paired(ours, theirs)
    words = {"higher": "ahead", "lower": "behind"}
    return words.get(verdict(gap), "even"), gap.value


def standings(found: Found, method: str, rival: str, names: Iterable[str]) -> tuple[int, ...]:
    """How often a method is ahead, even and behind.

    Args:
        found: all results.
        method: of `METHODS`.
        rival: likewise.
        names: of tasks.

    Returns:
        (ahead, even, behind).
    """
    words = [
        compared(found[name], method, rival, horizon)[0]
        for name in names
        for horizon in found[name]["horizons"]
    ]
    return tuple(words.count(word) for word in ("ahead", "even", "behind"))


def _lines(found: Found) -> list[str]:
    halves = {
        part: [name for name, task in found.items() if task["part"] == part]
        for part in ("choose", "report")
    }
    lines = _opening(found, halves)
    for part, title in (("choose", "The tasks to choose on"), ("report", "The other tasks")):
        if halves[part]:
            lines += ["", f"## {title}", "", f"{', '.join(halves[part])}.", ""]
            lines += _standing_table(found, halves[part])
    lines += ["", "## All scores", ""]
    for name, task in found.items():
        lines += _score_table(name, task)
    lines += ["## What a guess of the rate costs", "", *_guess_table(found)]
    return [*lines, "", "## Cost", "", *_cost_table(found)]


def _opening(found: Found, halves: dict[str, list[str]]) -> list[str]:
    folder = Path(__file__).parent
    seeds = sorted({task["seeds"] for task in found.values()})
    edges = _edges(found)
    settings = sum(len(task["horizons"]) for task in found.values())
    said = "{} ahead, {} even, {} behind".format

    def against(method: str, rival: str, part: str = "") -> str:
        return said(*standings(found, method, rival, halves[part] if part else found))

    chosen = _chosen(found, halves["choose"])
    text = (
        (folder / "template.txt")
        .read_text()
        .format(
            tasks=len(found),
            settings=settings,
            seeds=" or ".join(map(str, seeds)),
            tuning=min(task["tuning"] for task in found.values()),
            edges=edges[0],
            rates=edges[1],
            chosen=chosen,
            chosen_cosine=against(chosen, "cosine, told", "report"),
            chosen_wsd=against(chosen, "WSD, told", "report"),
            chosen_free=against(chosen, "schedule-free", "report"),
            bank=against("constant + bank", "cosine, told"),
            bank_free=against("constant + bank", "schedule-free"),
            single=against("constant + bank", "constant + average"),
            growth=against("growth + bank", "cosine, told"),
            growth_free=against("growth + bank", "schedule-free"),
            prodigy=against("growth + bank", "Prodigy + bank"),
            brake=against("growth + brake + bank", "growth + bank"),
            goal=_goal(found),
            choose=len(halves["choose"]),
            report=len(halves["report"]),
        )
    )
    return text.splitlines()


def _chosen(found: Found, names: list[str]) -> str:
    # The candidate that is ahead of cosine and schedule-free the most, less where it is behind.
    def balance(method: str) -> int:
        rows = [standings(found, method, r, names) for r in ("cosine, told", "schedule-free")]
        return sum(row[0] - row[2] for row in rows)

    return max((m for m in METHODS if m not in RIVALS), key=balance)


def _goal(found: Found) -> str:
    reached = []
    for method in METHODS:
        ahead, even, behind = standings(found, method, "schedule-free", found)
        level = ahead + even >= 0.8 * (ahead + even + behind)
        if method not in RIVALS and level and not standings(found, method, RIVALS[0], found)[2]:
            reached.append(method)
    goal = "the goal (never behind tuned cosine, level with tuned schedule-free in 80 %)"
    return (
        f"{', '.join(reached)} reaches {goal}." if reached else f"No candidate reaches {goal}."
    )


def _standing_table(found: Found, names: list[str]) -> list[str]:
    lines = ["| ahead / even / behind | " + " | ".join(RIVALS) + " |"]
    lines.append("|---" * (len(RIVALS) + 1) + "|")
    for method in METHODS:
        if method in RIVALS:
            continue
        cells = [" / ".join(map(str, standings(found, method, r, names))) for r in RIVALS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def _score_table(name: str, task: Found) -> list[str]:
    percent = task["measure"] == "accuracy"
    unit = "test accuracy in per cent" if percent else "test loss"
    heads = [f"{h} updates" for h in task["horizons"]]
    lines = [f"**{name}**, {unit}, mean ± standard deviation over the seeds (rate):", ""]
    lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in METHODS:
        cells = []
        for horizon in task["horizons"]:
            values = tuned(task, method, horizon) * (100 if percent else 1)
            rate = best_rate(task, method, horizon)
            shown = f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
            shown = shown if percent else f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
            cells.append(shown + (f" ({rate:g})" if len(rates(task, method)) > 1 else ""))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _edges(found: Found) -> tuple[int, int]:
    at, total = 0, 0
    for task in found.values():
        for method in METHODS:
            grid = rates(task, method)
            if len(grid) > 1:
                chosen = [best_rate(task, method, h) for h in task["horizons"]]
                at += sum(rate in {grid[0], grid[-1]} for rate in chosen)
                total += len(chosen)
    return at, total


def _guess_table(found: Found) -> list[str]:
    lines = [
        "What is lost on test examples where the rate is guessed: the mean over the five rates "
        "from 0.001 to 0.1 (tuning seeds), beside the one that validation chooses; medians "
        "over tasks and horizons. Accuracies in points, losses in per cent; what needs no rate "
        "loses nothing.",
        "",
        "| | accuracy: points lost | loss: per cent lost |",
        "|---|---|---|",
    ]
    for method in METHODS:
        lost: dict[str, list[float]] = {"accuracy": [], "loss": []}
        for task in found.values():
            grid = rates(task, method)
            if len(grid) == 1:
                continue
            for horizon in task["horizons"]:
                means = []
                for lr in grid:
                    seen = scores(task, method, horizon, "test", lr)
                    means.append(np.mean([seen[s] for s in range(task["tuning"])]))
                best = means[grid.index(best_rate(task, method, horizon))]
                if task["measure"] == "accuracy":
                    lost["accuracy"].append(100 * (best - np.mean(means)))
                else:
                    lost["loss"].append(100 * (np.mean(means) / best - 1))
        if lost["accuracy"] or lost["loss"]:
            a, b = (f"{np.median(v):.1f}" if v else "-" for v in lost.values())
            lines.append(f"| {method} | {a} | {b} |")
    return lines


def _cost_table(found: Found) -> list[str]:
    lines = [
        "CPU seconds of one training to the last horizon over those of AdamW at a constant "
        "rate (whose runs keep the averages, too); medians over tasks. Told schedules need a "
        "training for each horizon.",
        "",
        "| | ratio |",
        "|---|---|",
    ]
    for recipe in dict.fromkeys(recipe for recipe, _ in METHODS.values()):
        ratios = []
        for task in found.values():
            last = str(task["horizons"][-1])
            times = {
                kind: [
                    r["seconds"]
                    for r in task["runs"]
                    if r["recipe"] == kind and last in r["scores"]
                ]
                for kind in (recipe, "adamw")
            }
            ratios.append(np.median(times[recipe]) / np.median(times["adamw"]))
        lines.append(f"| {recipe} | {np.median(ratios):.2f} |")
    return lines
