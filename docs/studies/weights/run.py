"""Run the study: `python docs/studies/weights/run.py [--out FOLDER]`.

Writes results.json, figures and README.md beside this file; three quarters of an hour on one
core. What is done is kept in parts/, so that a run that was stopped goes on. Needs the data
beside the checkout.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import gates
import merges
import numpy as np
import page
import pairs
import torch

from lossatlas.executor import run_tasks
from lossatlas.io import Ledger, open_ledger, run_identity

HERE = Path(__file__).parent
Jobs = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    parser.add_argument(
        "--pages", action="store_true", help="draw and write again from results.json"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help="measure these pairs or merges, and leave the rest of results.json as it is",
    )  # fmt: skip
    asked = parser.parse_args()
    kept = asked.out / "results.json"
    if not asked.pages:
        torch.set_num_threads(1)
        (asked.out / "parts").mkdir(parents=True, exist_ok=True)
        run = run_identity("weights", {})
        with open_ledger(asked.out / "parts" / "weights.sqlite", run) as ledger:
            found = measured(ledger) if not asked.only else json.loads(kept.read_text())
            for name in asked.only:
                if name in merges.SETTINGS:
                    found["merges"][name] = _merges(ledger, name)
                else:
                    found["pairs"][name] = _pairs(ledger, name)
                    found["networks"] |= _ends(_networks(ledger, [name]))
        kept.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    found = json.loads(kept.read_text())
    page.draw(found, asked.out)
    (asked.out / "README.md").write_text(page.text(found))


def measured(ledger: Ledger) -> dict[str, Any]:
    """Everything, from the ledger where it is done."""
    networks = _networks(ledger, (*pairs.ALIGNED, *pairs.CURVED))
    states = {key: found["state"] for key, found in networks.items()}
    jobs: Jobs = {}
    for name in pairs.CURVED:
        for a, b in pairs.PAIRS:
            for after in (False, True):
                ends = states[f"{name} {a}"], states[f"{name} {b}"]
                key = f"{name} {a} {b} {'aligned' if after else 'as is'}"
                jobs[key] = partial(pairs.curved, name, *ends, is_aligned=after)
    curves = _done(ledger, jobs)
    sizes = [
        (t, n, seed) for n in gates.EXAMPLES for t in gates.STEPS for seed in range(gates.SEEDS)
    ]
    jobs = {f"gates {t} {n} {seed}": partial(gates.cosines, t, n, seed) for t, n, seed in sizes}
    recurrent = _done(ledger, jobs)
    return {
        "networks": _ends(networks),
        "pairs": {name: _pairs(ledger, name) for name in pairs.ALIGNED},
        "curves": _plain(curves),
        "gates": _plain(recurrent),
        "merges": {name: _merges(ledger, name) for name in merges.SETTINGS},
    }


def _networks(ledger: Ledger, names: Iterable[str]) -> dict[str, Any]:
    made = [(name, seed) for name in names for seed in pairs.SEEDS]
    return _done(ledger, {f"{n} {s}": partial(pairs.network, n, s) for n, s in made})


def _ends(networks: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(found["ends"]) for key, found in networks.items()}


def _pairs(ledger: Ledger, name: str) -> list[dict[str, Any]]:
    networks = _networks(ledger, [name])
    states = {key: found["state"] for key, found in networks.items()}
    return [_pair(ledger, name, states, pair) for pair in pairs.PAIRS]


def _merges(ledger: Ledger, name: str) -> list[dict[str, Any]]:
    jobs = {f"{name} {s}": partial(merges.compared, name, s) for s in merges.SEEDS}
    return [_plain(found) for found in _done(ledger, jobs).values()]


def _done(ledger: Ledger, jobs: Jobs) -> dict[str, Any]:
    results = run_tasks(jobs, lambda: lambda job: job(), ledger=ledger, progress=True)
    return dict(zip(jobs, results, strict=True))


def _pair(ledger: Ledger, name: str, states: Any, pair: tuple[int, int]) -> dict[str, Any]:
    first, second = (states[f"{name} {seed}"] for seed in pair)
    found: dict[str, Any] = {}
    for way in pairs.WAYS[name]:
        job = partial(pairs.aligned, name, first, second, way)
        key = f"{name} {pair[0]} {pair[1]} {way}"
        found[way] = _done(ledger, {key: job})[key]
    halves = {way: one["halfway"] for way, one in found.items()}
    for one in found.values():
        off = one["halfway"] - halves["weights"]
        one["against weights"] = [off.mean(), off.std(ddof=1) / len(off) ** 0.5]
    left_out = {"state", "halfway"}
    return {
        way: _plain({key: value for key, value in one.items() if key not in left_out})
        for way, one in found.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}")
    return value


if __name__ == "__main__":
    main()
