"""The page of the study of learned heuristics and adaptive intervals."""

from pathlib import Path

import intervals
import numpy as np
from learn import FACTORS, NUMBERS
from scipy.stats import t as student
from stack import EVERY, RATES, STEPS, TASKS

METHODS = ("table", "table, wide limits", "learned", "shuffled readings")
TEXT = """# Learned heuristics, and intervals that adapt

## Can a policy be learned from logged readings?
`RegimePolicy` decides by a table that was written by hand. Here a policy is fitted instead: at
every {every}th of {steps} updates it reads what the table reads (sharpness and variability of
the loss around the weights, and the training loss), and takes the factor 0.7, 1 or 1.43 after
which the log training loss is predicted to fall most over the next two intervals. The
prediction is a ridge regression on six numbers for each factor, fitted to trainings with random
factors on one half of the tasks (4 seeds, {rates} base rates) and judged on the other half
(6 other seeds), and the other way round. The null is the same policy fitted to shuffled
readings: it knows which factor is best on average, and nothing of the landscape.

Final validation loss against that of the constant rate, mean of the log ratio over seeds and
rates with a 95 % interval over seeds; below zero is better. SGD with momentum 0.9; networks of
one to three hidden layers; a loss above that of chance (a training that diverged) counts as
that of chance.

{tables}

{verdict}

A fall of the loss over the next two intervals is had by braking: both learned policies, also
that of shuffled readings, lower rates that are too high and lose at rates that are too low,
where a policy that looks further ahead would wait. The readings are worth something: the policy
is ahead of its null. Neither is ahead of a constant rate that is tuned.

What the fitted policies go by (standardized; the difference between the lines for 1.43 and
0.7, so that positive means "raise where this is large"):

{weights}

## Intervals that adapt
`LandscapeLR(..., max_interval=400)` doubles the steps between decisions while decisions keep
their reason, and falls back to `interval=25` when one changes. Beside it the fixed interval,
and a fixed one four times as long; `RegimePolicy`, {long} updates, 5 seeds.

{adaptive}

"Distance": mean absolute difference of the log scale from that of the fixed interval of 25.
"Loss": mean difference of the final validation loss from the same, with a 95 % interval.

## What this does not say
Small networks, SGD, one rule for exploration, a linear prediction over two intervals: other
learners may find more. A policy that looks further ahead than its readings reach is not here.

Run again with `python docs/studies/heuristics/run.py`.
"""


def log_ratios(found: dict, task: str, method: str) -> np.ndarray:
    """Log of the final loss over that of the constant rate, shape (rates, seeds)."""
    ours, plain = (np.array(found[f"{task} / {m}"]["losses"]) for m in (method, "constant"))
    return np.log(ours / plain).reshape(len(RATES), -1)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds, and half of its 95 % interval (Student's t)."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(half)


def cell(values: np.ndarray) -> str:
    """A mean and its interval as text."""
    mean, half = interval(values)
    return f"{mean:+.3f} ± {half:.3f}"


def by_task(found: dict) -> str:
    """A line a task, rates averaged."""
    lines = [f"| task | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for task in TASKS:
        cells = [cell(log_ratios(found, task.name, m).mean(0)) for m in METHODS]
        lines.append(f"| {task.name} | {' | '.join(cells)} |")
    every = [
        cell(np.array([log_ratios(found, t.name, m).mean() for t in TASKS])) for m in METHODS
    ]
    lines.append(f"| all tasks (interval over tasks) | {' | '.join(every)} |")
    return "\n".join(lines)


def by_rate(found: dict) -> str:
    """A line a base rate, tasks averaged."""
    lines = [f"| base rate | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for at, rate in enumerate(RATES):
        cells = [
            cell(np.mean([log_ratios(found, t.name, m)[at] for t in TASKS], 0)) for m in METHODS
        ]
        lines.append(f"| {rate:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def at_best(found: dict, method: str) -> np.ndarray:
    """Log losses at the rate that is best for a method on each task, shape (tasks, seeds)."""
    rows = [
        np.array(found[f"{t.name} / {method}"]["losses"]).reshape(len(RATES), -1) for t in TASKS
    ]
    return np.array([np.log(row[np.argmin(row.mean(1))]) for row in rows])


def tuned(found: dict) -> str:
    """A line a method: at the rate that is best for it on each task."""
    lines = [
        "| method, at its best rate of each task | against the constant rate at its best |"
    ]
    lines.append("|---|---|")
    plain = at_best(found, "constant")
    lines.extend(
        f"| {method} | {cell((at_best(found, method) - plain).mean(0))} |" for method in METHODS
    )
    return "\n".join(lines)


def verdict(found: dict) -> str:
    """Whether readings help the learned policy, and whether it beats the others."""
    said = []
    for other in ("shuffled readings", "table", "table, wide limits"):
        gap = np.mean(
            [
                log_ratios(found, t.name, "learned") - log_ratios(found, t.name, other)
                for t in TASKS
            ],
            0,
        )
        mean, half = interval(gap.mean(0))
        side = "below" if mean < 0 else "above"
        sure = "" if abs(mean) > half else ", which is not distinguishable from zero"
        said.append(
            f"Against {other} the learned policy ends {100 * abs(np.expm1(mean)):.1f} % {side} "
            f"(log ratio {mean:+.3f} ± {half:.3f}{sure})."
        )
    gap = (at_best(found, "learned") - at_best(found, "constant")).mean(0)
    mean, half = interval(gap)
    sure = "" if abs(mean) > half else ", not distinguishable from zero"
    said.append(
        "With the best rate of each task for both, the learned policy against the constant "
        f"rate: {100 * np.expm1(mean):+.1f} % (log ratio {mean:+.3f} ± {half:.3f}{sure})."
    )
    return " ".join(said)


def weights(lines: list) -> str:
    """What a fitted policy goes by."""
    head = ["| fitted on | " + " | ".join((*NUMBERS, "constant")) + " |"]
    head.append("|---" * (len(NUMBERS) + 2) + "|")
    for half, name in enumerate(("tasks 1, 3, 5, 7", "tasks 2, 4, 6, 8")):
        up, down = (np.array(lines[half][FACTORS.index(f)]) for f in (1.43, 0.7))
        head.append(f"| {name} | " + " | ".join(f"{x:+.3f}" for x in up - down) + " |")
    return "\n".join(head)


def adaptive(found: dict) -> str:
    """A line a problem and kind of interval."""
    lines = ["| problem | interval | probes | CPU time | distance | loss |", "|---" * 6 + "|"]
    for name in intervals.PROBLEMS:
        seeds = sum(key.startswith(f"{name} / every 25 /") for key in found)
        rows = {
            kind: [found[f"{name} / {kind} / {seed}"] for seed in range(seeds)]
            for kind in intervals.KINDS
        }
        for kind, each in rows.items():
            probes = np.mean([r["probes"] for r in each])
            share = 100 * np.median([r["share"] for r in each])
            gap, losses = intervals.compared(rows, kind)
            first = kind == next(iter(rows))
            tail = "| |" if first else f"{gap:.3f} | {cell(losses)} |"
            lines.append(f"| {name} | {kind} | {probes:.1f} | {share:+.1f} % | {tail}")
    return "\n".join(lines)


def write(results: dict, out: Path) -> None:
    """Write README.md."""
    found = results["found"]
    tables = "\n\n".join((by_task(found), by_rate(found), tuned(found)))
    (out / "README.md").write_text(
        TEXT.format(
            every=EVERY, steps=STEPS, rates=len(RATES), tables=tables, verdict=verdict(found),
            weights=weights(results["weights"]), adaptive=adaptive(found), long=intervals.STEPS,
        )
    )  # fmt: skip
