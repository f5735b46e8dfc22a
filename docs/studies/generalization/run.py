"""Run the study: `python docs/studies/generalization/run.py [--quick] [--executor joblib]`.

Trains and measures 324 networks (a quarter of an hour on one core), writes results.json, the
figure and README.md beside this file. What is done is kept in parts/, so that a run that was
stopped goes on. Needs the data beside the checkout; `--pages` writes the page again from
results.json.
"""

import argparse
import json
import time
from pathlib import Path

import measures
import networks
import torch

from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity

HERE = Path(__file__).parent
# MNIST takes longer.
SEEDS = {"digits": 2, "mnist": 1}
TARGETS = ("error gap", "loss gap", "training error")
COLUMNS = (*TARGETS, *measures.MEASURES, "seconds")


def main() -> None:
    """Measure, score, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every 12th network, to try it")
    parser.add_argument("--pages", action="store_true", help="only write the page again")
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.pages:
        found = _measured(asked.out, asked.quick, asked.executor)
        (asked.out / "results.json").write_text(
            json.dumps(found, separators=(",", ":")).replace("],[", "],\n[") + "\n"
        )
    import page

    page.write(json.loads((asked.out / "results.json").read_text()), asked.out)


def _measured(out: Path, quick: bool, executor: str) -> dict[str, object]:
    settings = networks.settings()
    tasks = {
        f"{data} {k} seed {seed}": (data, k, seed)
        for data in networks.DATA
        for seed in range(SEEDS[data])
        for k in range(0, len(settings), 12 if quick else 1)
    }
    identity = run_identity("generalization", {"grid": networks.GRID, "columns": COLUMNS})
    (out / "parts").mkdir(parents=True, exist_ok=True)
    name = "quick.sqlite" if quick else "networks.sqlite"
    with open_ledger(out / "parts" / name, identity) as ledger:
        rows = list(run_tasks(tasks, _worker, executor=executor, ledger=ledger, progress=True))
    values = [[None if x != x else float(f"{x:.4g}") for x in row] for row in rows]
    return {"columns": COLUMNS, "networks": list(tasks.values()), "values": values}


def _worker():
    torch.set_num_threads(1)
    data = {name: load() for name, load in networks.DATA.items()}

    def work(task):
        name, index, seed = task
        began, setting = time.process_time(), networks.settings()[index]
        trained = networks.train(data[name], setting, 1000 * index + seed)
        found = measures.targets(data[name], trained)
        found |= measures.measured(data[name], setting, trained, seed)
        return [*found.values(), time.process_time() - began]

    return work


if __name__ == "__main__":
    main()
