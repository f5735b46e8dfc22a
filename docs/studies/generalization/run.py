"""Run the study: `python docs/studies/generalization/run.py [--quick] [--executor joblib]`.

Trains and measures 252 networks (a quarter of an hour on one core), writes results.json, the
figure and README.md beside this file. What is done is kept in parts/, so that a run that was
stopped goes on. Needs the data beside the checkout; `--pages` writes the page again from
results.json, `--evidence` takes the effective parameters and the log determinant again
(networks are trained again from their seeds; another training loss than before is an error).
"""

import argparse
import json
import time
from pathlib import Path

import measures
import torch
import trained_networks as networks

from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity

HERE = Path(__file__).parent
# (data, seed) -> networks, in the order of `networks.settings`: MNIST takes longer and has the
# widths 24 and 48 once, digits these twice and the width 96 once.
PLAN = {("digits", 0): 108, ("digits", 1): 72, ("mnist", 0): 72}
TARGETS = ("error gap", "loss gap", "training error")
COLUMNS = (*TARGETS, *measures.MEASURES, "seconds")


def main() -> None:
    """Measure, score, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every 12th network, to try it")
    parser.add_argument("--pages", action="store_true", help="only write the page again")
    parser.add_argument("--evidence", action="store_true", help="only effective parameters")
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.evidence:
        found = _with_evidence(asked.out, asked.executor)
    elif not asked.pages:
        found = _measured(asked.out, asked.quick, asked.executor)
    if not asked.pages:
        (asked.out / "results.json").write_text(
            json.dumps(found, separators=(",", ":")).replace("],[", "],\n[") + "\n"
        )
    import page

    page.write(json.loads((asked.out / "results.json").read_text()), asked.out)


def _measured(out: Path, quick: bool, executor: str) -> dict[str, object]:
    tasks = {
        f"{data} {k} seed {seed}": (data, k, seed)
        for (data, seed), count in PLAN.items()
        for k in range(0, count, 12 if quick else 1)
    }
    identity = run_identity("generalization", {"grid": networks.GRID, "columns": COLUMNS})
    (out / "parts").mkdir(parents=True, exist_ok=True)
    name = "quick.sqlite" if quick else "networks.sqlite"
    with open_ledger(out / "parts" / name, identity) as ledger:
        rows = list(run_tasks(tasks, _worker, executor=executor, ledger=ledger, progress=True))
    values = [[None if x != x else float(f"{x:.4g}") for x in row] for row in rows]
    return {"columns": COLUMNS, "networks": list(tasks.values()), "values": values}


def _with_evidence(out: Path, executor: str) -> dict[str, object]:
    found = json.loads((out / "results.json").read_text())
    tasks = {
        f"{data} {k} seed {seed}": (data, k, seed, row[COLUMNS.index("training loss")])
        for (data, k, seed), row in zip(found["networks"], found["values"], strict=True)
    }
    identity = run_identity("generalization evidence", {"grid": networks.GRID})
    (out / "parts").mkdir(parents=True, exist_ok=True)
    with open_ledger(out / "parts" / "evidence.sqlite", identity) as ledger:
        rows = list(
            run_tasks(tasks, _evidence, executor=executor, ledger=ledger, progress=True)
        )
    for row, new in zip(found["values"], rows, strict=True):
        for name, value in new.items():
            row[COLUMNS.index(name)] = None if value != value else float(f"{value:.4g}")
    return found


def _evidence():
    torch.set_num_threads(1)
    data = {name: load() for name, load in networks.DATA.items()}

    def work(task):
        name, index, seed, loss = task
        trained = networks.train(data[name], networks.settings()[index], 1000 * index + seed)
        if float(f"{trained.loss:.4g}") != loss:
            raise RuntimeError(f"{name} {index}: trained to {trained.loss}, before to {loss}.")
        return measures.effective(measures.objective_of(data[name], trained), seed)

    return work


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
