"""Run the study: `python docs/studies/scale/run.py [--quick]`.

Writes results.json, scale.png and README.md beside this file; about two minutes.
"""

import argparse
import json
import os
from pathlib import Path

import measure
import page
import torch

HERE = Path(__file__).parent


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to try it out")
    parser.add_argument("--page", action="store_true", help="only draw and write")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    file = asked.out / "results.json"
    if not asked.page:
        file.write_text(json.dumps(measured(quick=asked.quick), indent=1) + "\n")
    results = json.loads(file.read_text())
    page.draw(results, asked.out)
    (asked.out / "README.md").write_text(page.text(results))


def measured(*, quick: bool) -> dict:
    """The numbers of the page."""
    rounds, load = 1 if quick else 3, os.getloadavg()[0]
    found = measure.grown(measure.QUICK if quick else measure.SIZES, rounds)
    examples = 512 if quick else measure.RANK_EXAMPLES
    return {
        **found,
        "processes": measure.over_processes(examples, rounds),
        "examples of a process": examples,
        "rounds": rounds,
        "load before": load,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
