"""Run the study: `python docs/studies/heuristics/run.py [--quick]`; `run.py page`: the page.

Writes results.json and README.md beside this file; some ten minutes on one core. What is done
is kept in parts/, so that a run that was stopped goes on.
"""

import argparse
import json
from functools import cache
from pathlib import Path

import intervals
import learn
import page
import torch
from stack import TASKS

from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity

HERE = Path(__file__).parent
# Policies are fitted on some seeds of half of the tasks and judged on others of the other half.
FIT, JUDGE = range(4), range(100, 106)
NULLS = 5


@cache
def policies(half: int, seeds: int) -> tuple:
    """The policy fitted on one half of the tasks, and those of shuffled readings."""
    courses = [learn.explored(task, range(seeds)) for task in TASKS[half::2]]
    return learn.fitted(courses), [learn.fitted(courses, shuffled=k) for k in range(NULLS)]


def judge(task: tuple) -> dict:
    """The final losses of one method on one task, or one training of the intervals."""
    kind, *rest = task
    if kind == "intervals":
        return intervals.measure(*rest)
    at, method, fit, seeds = rest
    learned, null = policies(1 - at % 2, fit)
    policy, limits = learn.methods(learned, null)[method]
    course = learn.run(TASKS[at], seeds, policy, limits)
    return {
        "losses": course.losses.tolist(),
        "factors": [float((course.factors == f).mean()) for f in learn.FACTORS],
    }


def tasks(quick: bool) -> dict[str, tuple]:
    """Everything that is measured, by name."""
    fit, seeds = (1, range(100, 102)) if quick else (len(FIT), JUDGE)
    names = list(learn.methods(None, [None]))
    found = {
        f"{each.name} / {method}": ("policy", at, method, fit, seeds)
        for at, each in enumerate(TASKS)
        for method in names
    }
    for name in intervals.PROBLEMS:
        for kind in intervals.KINDS:
            for seed in range(1 if quick else 5):
                found[f"{name} / {kind} / {seed}"] = ("intervals", name, kind, seed)
    return found


def rounded(value):
    """Five digits are more than any number of the study is worth."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "page"), default="all")
    parser.add_argument("--quick", action="store_true", help="few seeds, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    file = asked.out / "results.json"
    if asked.what == "all":
        torch.set_num_threads(1)
        todo = tasks(asked.quick)
        (asked.out / "parts").mkdir(parents=True, exist_ok=True)
        identity = run_identity(
            "learned heuristics", {"tasks": list(todo), "quick": asked.quick}
        )
        with open_ledger(asked.out / "parts" / "heuristics.sqlite", identity) as ledger:
            found = list(run_tasks(todo, lambda: judge, ledger=ledger, progress=True))
        results = {"found": dict(zip(todo, found, strict=True))}
        fit = 1 if asked.quick else len(FIT)
        results["weights"] = [policies(half, fit)[0].weights for half in range(2)]
        file.write_text(json.dumps(rounded(results)) + "\n")
    page.write(json.loads(file.read_text()), asked.out)


if __name__ == "__main__":
    main()
