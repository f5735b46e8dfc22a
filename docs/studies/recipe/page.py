"""The page of the study: who is ahead of whom, on which tasks, at which rates, at what cost."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lossatlas.recipes import paired, verdict

Found = dict[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]
# What the page calls a recipe, and the weights that it is read by.
METHODS = {
    "cosine, told": ("adamw+cosine", "raw"),
    "WSD, told": ("adamw+wsd", "raw"),
    "linear, told": ("adamw+linear", "raw"),
    "schedule-free": ("schedulefree", "raw"),
    "constant + average": ("adamw", "16"),
    "constant + bank": ("adamw", "bank"),
    "cautious + bank": ("adamw+cautious", "bank"),
    "interpolated(0) + wide bank": ("adamw+interpolated=0", "wide bank"),
    "interpolated(4) + bank": ("adamw+interpolated=4", "bank"),
    "interpolated(16) + bank": ("adamw+interpolated=16", "bank"),
    "interpolated(16) + wide bank": ("adamw+interpolated=16", "wide bank"),
    "Prodigy + bank": ("prodigy", "bank"),
    "growth + bank": ("adamw+growth", "bank"),
    "growth + cautious + bank": ("adamw+growth+cautious", "bank"),
    "growth + interpolated(0) + wide bank": ("adamw+growth+interpolated=0", "wide bank"),
    "growth + interpolated(4) + bank": ("adamw+growth+interpolated=4", "bank"),
    "growth + interpolated(16) + bank": ("adamw+growth+interpolated=16", "bank"),
    "growth + interpolated(16) + wide bank": ("adamw+growth+interpolated=16", "wide bank"),
    "growth + brake + bank": ("adamw+growth+brake", "bank"),
}
RIVALS = tuple(METHODS)[:4]
BANKS = {"bank": ("4", "16", "64"), "wide bank": ("0", "4", "16", "64")}
COSINE, FREE = "cosine, told", "schedule-free"
SIGNS = {"accuracy": 1, "loss": -1}


def banked(scores: Mapping[str, Tensor], measure: str) -> dict[str, Array]:
    """One measure of all members, with the averages that validation chooses in each run.

    Args:
        scores: weights -> shape (members, valid/test, loss/accuracy).
        measure: "loss" or "accuracy".

    Returns:
        weights, and the banks that can be had -> shape (members, valid/test).
    """
    place, sign = (0, -1) if measure == "loss" else (1, 1)
    found = {name: values[:, :, place].numpy() for name, values in scores.items()}
    for bank, members in BANKS.items():
        if all(name in found for name in members):
            every = np.stack([found[name] for name in members])
            best = np.argmax(np.nan_to_num(sign * every[:, :, 0], nan=-math.inf), 0)
            found[bank] = every[best, np.arange(every.shape[1])]
    kept = {"raw", "16", *BANKS}
    return {name: values for name, values in found.items() if name in kept}


def write(found: Found, folder: Path, planned: Iterable[str] = ()) -> None:
    """Write README.md.

    Args:
        found: results of all tasks that are done, checks and costs.
        folder: where.
        planned: names of all tasks, to say which are missing.
    """
    missing = [name for name in planned if name not in found["tasks"]]
    (folder / "README.md").write_text("\n".join(_lines(found, missing)) + "\n")


def has(task: Found, method: str) -> bool:
    """Whether a method was trained on a task.

    Args:
        task: results of one task.
        method: of `METHODS`.

    Returns:
        True where it was.
    """
    return METHODS[method][0] in task["runs"]


def rates(task: Found, method: str) -> list[str]:
    """The rates that a method was trained at.

    Args:
        task: results of one task.
        method: of `METHODS`.

    Returns:
        Growing rates, as text.
    """
    return sorted(task["runs"][METHODS[method][0]], key=float)


def scores(task: Found, method: str, horizon: int, lr: str) -> tuple[float, Array]:
    """Larger is better: the mean on validation, and the test score of each seed.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.
        lr: of `rates`.

    Returns:
        (validation, tests).
    """
    recipe, weights = METHODS[method]
    seen, sign = task["runs"][recipe][lr][str(horizon)][weights], SIGNS[task["measure"]]
    valid = sign * seen["valid"]
    return (valid if math.isfinite(valid) else -math.inf), sign * np.array(seen["test"])


def best_rate(task: Found, method: str, horizon: int) -> str:
    """The rate that validation chooses.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.

    Returns:
        A rate; growth takes its middle one.
    """
    grid = rates(task, method)
    if "growth" in METHODS[method][0]:
        return grid[len(grid) // 2]
    return max(grid, key=lambda lr: scores(task, method, horizon, lr)[0])


def tuned(task: Found, method: str, horizon: int) -> Array:
    """Test scores of all seeds at the chosen rate, larger is better.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.

    Returns:
        Shape (seeds,).
    """
    return scores(task, method, horizon, best_rate(task, method, horizon))[1]


def compared(task: Found, method: str, rival: str, horizon: int) -> str:
    """How a method stands to another one, seed by seed.

    Args:
        task: results of one task.
        method: of `METHODS`.
        rival: likewise.
        horizon: updates.

    Returns:
        "ahead", "even" or "behind".
    """
    ours, theirs = (tuned(task, name, horizon) for name in (method, rival))
    if not np.isfinite(ours).all():
        return "behind"
    if not np.isfinite(theirs).all():
        return "ahead"
    words = {"higher": "ahead", "lower": "behind"}
    return words.get(verdict(paired(ours, theirs)), "even")


def standings(tasks: Iterable[Found], method: str, rival: str) -> tuple[int, int, int]:
    """How often a method is ahead, even and behind.

    Args:
        tasks: results.
        method: of `METHODS`.
        rival: likewise.

    Returns:
        (ahead, even, behind).
    """
    words = [
        compared(task, method, rival, horizon) for task in tasks for horizon in task["horizons"]
    ]
    return words.count("ahead"), words.count("even"), words.count("behind")


def candidates(tasks: Iterable[Found]) -> list[str]:
    """What is no rival and was trained on all of some tasks.

    Args:
        tasks: results.

    Returns:
        Names of `METHODS`.
    """
    every = list(tasks)
    return [m for m in METHODS if m not in RIVALS and all(has(task, m) for task in every)]


def chosen(tasks: list[Found], *, free: bool = False) -> str:
    """The candidate that is ahead of cosine and schedule-free most often, less where behind.

    Args:
        tasks: results to choose on.
        free: only those without a rate.

    Returns:
        A name of `METHODS`.
    """

    def balance(method: str) -> int:
        rows = [standings(tasks, method, rival) for rival in (COSINE, FREE)]
        return sum(ahead - behind for ahead, _, behind in rows)

    names = candidates(tasks)
    return max((m for m in names if not free or "growth" in m or "Prodigy" in m), key=balance)


def guess_cost(task: Found, method: str, horizon: int) -> float:
    """What a guessed rate costs: the mean over the grid against the chosen rate, in per cent.

    Accuracies are read as errors, so that all tasks have one unit: relative rise of error or
    loss on test examples.

    Args:
        task: results of one task.
        method: of `METHODS`.
        horizon: updates.

    Returns:
        Per cent; infinite where a rate diverges.
    """
    top = 1.0 if task["measure"] == "accuracy" else 0.0
    losses = {
        lr: top - scores(task, method, horizon, lr)[1].mean() for lr in rates(task, method)
    }
    best = losses[best_rate(task, method, horizon)]
    return float(100 * (np.mean(list(losses.values())) / best - 1))


def _lines(found: Found, missing: list[str]) -> list[str]:
    tasks = found["tasks"]
    halves = {
        part: [task for task in tasks.values() if task["part"] == part]
        for part in ("choose", "report")
    }
    lines = _opening(found, halves, missing)
    for part, title in (("choose", "The tasks to choose on"), ("report", "The other tasks")):
        if halves[part]:
            names = [name for name, task in tasks.items() if task["part"] == part]
            lines += ["", f"## {title}", "", f"{'; '.join(names)}.", ""]
            lines += _standing_table(halves[part])
    lines += ["", "## Where it is behind", "", *_behind(tasks, halves["choose"])]
    lines += ["", "## What a guess of the rate costs", "", *_guess_table(list(tasks.values()))]
    lines += ["", "## All scores", ""]
    for name, task in tasks.items():
        lines += _score_table(name, task)
    return [*lines, "## Cost", "", *_cost_table(found)]


def _said(row: tuple[int, int, int]) -> str:
    return "{} ahead, {} even, {} behind".format(*row)


def _opening(found: Found, halves: dict[str, list[Found]], missing: list[str]) -> list[str]:
    tasks = list(found["tasks"].values())
    best, free = chosen(halves["choose"]), chosen(halves["choose"], free=True)
    edges = _edges(tasks)
    last = halves["report"]
    every = {f"all_{n}": _said(standings(tasks, m, r)) for n, m, r in _PAIRS}
    text = (Path(__file__).parent / "template.txt").read_text()
    return text.format(
        tasks=len(tasks),
        missing=f"; not done yet: {', '.join(missing)}" if missing else "",
        settings=sum(len(task["horizons"]) for task in tasks),
        seeds=tasks[0]["seeds"],
        best=best,
        free=free,
        best_cosine=_said(standings(last, best, COSINE)),
        best_wsd=_said(standings(last, best, "WSD, told")),
        best_linear=_said(standings(last, best, "linear, told")),
        best_free=_said(standings(last, best, FREE)),
        free_cosine=_said(standings(last, free, COSINE)),
        free_free=_said(standings(last, free, FREE)),
        free_prodigy=_said(standings(last, free, "Prodigy + bank")),
        goal=_goal(tasks, best),
        guess=_guess_line(tasks, best, free),
        edges=edges[0],
        chosen_rates=edges[1],
        choose=len(halves["choose"]),
        report=len(last),
        check=max(found.get("check", {"": math.nan}).values()),
        **every,
    ).splitlines()


_PAIRS = (
    ("constant_cosine", "constant + bank", COSINE),
    ("constant_free", "constant + bank", FREE),
    ("single", "constant + bank", "constant + average"),
    ("cautious_cosine", "cautious + bank", COSINE),
    ("cautious_free", "cautious + bank", FREE),
    ("growth_cosine", "growth + bank", COSINE),
    ("growth_free", "growth + bank", FREE),
    ("brake", "growth + brake + bank", "growth + bank"),
)


def _goal(tasks: list[Found], best: str) -> str:
    cosine, free = (standings(tasks, best, rival) for rival in (COSINE, FREE))
    level = (free[0] + free[1]) / sum(free)
    met = "reached" if not cosine[2] and level >= 0.8 else "not reached"
    return (
        f"The goal (never behind tuned cosine, level with tuned schedule-free in 80 %) is "
        f"{met} over all settings: behind cosine in {cosine[2]} of {sum(cosine)}, level with "
        f"schedule-free in {100 * level:.0f} %."
    )


def _guess_line(tasks: list[Found], best: str, free: str) -> str:
    def cost(method: str) -> Array:
        return np.array([guess_cost(t, method, h) for t in tasks for h in t["horizons"]])

    ours, theirs = cost(free), cost(best)
    return (
        f"{free} costs {_percent(ours)} of error or loss (median over the settings; worst "
        f"{np.max(ours):.1f} %) where its base rate is guessed over three decades, {best} "
        f"{_percent(theirs)} over its grid: the goal of 1 % is "
        f"{'reached without a rate' if np.median(ours) <= 1 else 'missed'}."
    )


def _percent(values: Array) -> str:
    return f"{np.median(values):.1f} %"


def _standing_table(tasks: list[Found]) -> list[str]:
    lines = ["| ahead / even / behind | " + " | ".join(RIVALS) + " |"]
    lines.append("|---" * (len(RIVALS) + 1) + "|")
    for method in candidates(tasks):
        cells = [" / ".join(map(str, standings(tasks, method, r))) for r in RIVALS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def _behind(tasks: Found, halves: list[Found]) -> list[str]:
    lines = []
    for method in (chosen(halves), chosen(halves, free=True)):
        for rival in (COSINE, FREE):
            places = []
            for name, task in tasks.items():
                for horizon in task["horizons"]:
                    if compared(task, method, rival, horizon) == "behind":
                        ours, theirs = (tuned(task, m, horizon).mean() for m in (method, rival))
                        places.append(
                            f"{name} at {horizon} updates ({_gap(task, ours - theirs)})"
                        )
            lines.append(f"- {method} behind {rival}: {'; '.join(places) or 'nowhere'}.")
    return lines


def _gap(task: Found, value: float) -> str:
    points = task["measure"] == "accuracy"
    return f"{100 * value:+.1f} points" if points else f"loss {-value:+.4f}"


def _score_table(name: str, task: Found) -> list[str]:
    percent = task["measure"] == "accuracy"
    unit = "test accuracy in per cent" if percent else "test loss"
    heads = [f"{h} updates" for h in task["horizons"]]
    lines = [f"**{name}**, {unit}, mean ± standard deviation over the seeds (rate):", ""]
    lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in METHODS:
        if has(task, method):
            cells = [_cell(task, method, horizon) for horizon in task["horizons"]]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(task: Found, method: str, horizon: int) -> str:
    percent, rate = task["measure"] == "accuracy", best_rate(task, method, horizon)
    values = tuned(task, method, horizon) * (100 if percent else -1)
    mean, spread = values.mean(), values.std(ddof=1)
    shown = f"{mean:.2f} ± {spread:.2f}" if percent else f"{mean:.4f} ± {spread:.4f}"
    grid = rates(task, method)
    if len(grid) == 1 or "growth" in METHODS[method][0]:
        return shown
    return f"{shown} ({rate}{'*' if rate in {grid[0], grid[-1]} else ''})"


def _edges(tasks: list[Found]) -> tuple[int, int]:
    at, total = 0, 0
    for task in tasks:
        for method in METHODS:
            if not has(task, method) or "growth" in method or "Prodigy" in method:
                continue
            grid = rates(task, method)
            found = [best_rate(task, method, horizon) for horizon in task["horizons"]]
            at += sum(rate in {grid[0], grid[-1]} for rate in found)
            total += len(found)
    return at, total


def _guess_table(tasks: list[Found]) -> list[str]:
    lines = [
        "What is lost on test examples where the rate is a guess: the mean over all rates of "
        "the grid (2 or 3 decades; growth: base rates 1e-4, 3e-3, 1e-1) against the rate "
        "that validation chooses. Relative rise of the error (where accuracy is measured) or "
        "of the loss, in per cent; quantiles over tasks and horizons.",
        "",
        "| | median | a quarter is above | worst |",
        "|---|---|---|---|",
    ]
    for method in METHODS:
        costs = [
            guess_cost(task, method, h)
            for task in tasks
            if has(task, method)
            for h in task["horizons"]
        ]
        if "Prodigy" not in method and costs:
            a, b, c = (float(np.quantile(costs, q)) for q in (0.5, 0.75, 1.0))
            lines.append(f"| {method} | {_shown(a)} | {_shown(b)} | {_shown(c)} |")
    return lines


def _shown(value: float) -> str:
    return "diverges" if not math.isfinite(value) else f"{value:.1f}"


def _cost_table(found: Found) -> list[str]:
    lines = [
        "CPU time of a step of the library's own training on MNIST (an MLP, one thread, "
        "medians of interleaved rounds) over that of AdamW at a constant rate; all runs keep "
        "three averages. Told schedules need a training for each horizon.",
        "",
        "| | ratio |",
        "|---|---|",
    ]
    return [
        *lines,
        *(f"| {name} | {ratio:.2f} |" for name, ratio in found.get("cost", {}).items()),
    ]
