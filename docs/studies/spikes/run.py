"""Run the study: `python docs/studies/spikes/run.py [--quick]`; `run.py page` writes the page.

Writes results.json and README.md beside this file; half an hour on one core. What is done is
kept in parts/, so that a run that was stopped goes on.
"""

import argparse
import json
from pathlib import Path

import page
import torch
from planted import CAUSES, NETWORKS, Plan, run

from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity

HERE = Path(__file__).parent
# The rules were developed on seeds 0 to 13; these were looked at once, at the end.
SEEDS, QUIET = range(1000, 1020), range(2000, 2030)


def measure(plan: Plan) -> dict:
    """What the recorder said of one training."""
    found = run(plan)
    row = {"cause": plan.cause, "network": plan.network, "seed": plan.seed}
    row |= {"optimizer": plan.optimizer, "planted": plan.at, "noticed": found is not None}
    if found is not None:
        row |= {
            "step": found.step, "named": found.cause, "is_faithful": found.is_faithful,
            "trials": {each.change: round(each.helps, 3) for each in found.trials},
        }  # fmt: skip
    return row


def plans(seeds: range, quiet: range) -> dict[str, Plan]:
    """Every training of the study by name."""
    every = [Plan(c, n, s) for c in CAUSES for n in NETWORKS for s in seeds]
    every += [Plan("quiet", n, s) for n in NETWORKS for s in quiet]
    return {f"{each.cause} / {each.network} / {each.seed}": each for each in every}


def main() -> None:
    """Train, look, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "page"), default="all")
    parser.add_argument("--quick", action="store_true", help="one seed, to try it out")
    parser.add_argument("--developed", action="store_true", help="seeds of the development")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    file = asked.out / "results.json"
    if asked.what == "all":
        first = 0 if asked.developed else SEEDS.start
        count = 1 if asked.quick else len(SEEDS)
        quiet = range(100, 102) if asked.developed or asked.quick else QUIET
        tasks = plans(range(first, first + count), quiet)
        (asked.out / "parts").mkdir(parents=True, exist_ok=True)
        identity = run_identity("planted spikes", {"tasks": list(tasks)})
        with open_ledger(asked.out / "parts" / "spikes.sqlite", identity) as ledger:
            torch.set_num_threads(1)
            rows = list(run_tasks(tasks, lambda: measure, ledger=ledger, progress=True))
        file.write_text(json.dumps({"rows": rows}) + "\n")
    page.write(json.loads(file.read_text()), asked.out)


if __name__ == "__main__":
    main()
