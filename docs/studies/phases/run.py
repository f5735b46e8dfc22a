"""Run the study: `python docs/studies/phases/run.py [--quick | --pages]`.

Writes results.json, the figure and README.md beside this file; a quarter of an hour on one
core. What is done is kept in parts/, so that a run that was stopped goes on; `--pages` writes
README.md again from results.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import page
import torch
from phase_plane import phase_plane

from lossatlas.rng import generator
from lossatlas.training import load_dataset

HERE = Path(__file__).parent
NOISE = (0.0, 0.2)


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    parser.add_argument("--pages", action="store_true", help="only write README.md again")
    asked = parser.parse_args()
    kept = asked.out / "results.json"
    if not asked.pages:
        planes = {share: measure(share, asked.out, quick=asked.quick) for share in NOISE}
        page.draw(planes, asked.out)
        kept.write_text(json.dumps(page.results(planes), indent=1) + "\n")
    (asked.out / "README.md").write_text(page.text(json.loads(kept.read_text())))


def measure(share, folder, *, quick):
    """The plane with a share of the training labels drawn at random."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    digits = load_dataset("digits", normalize="standardized")
    digits = digits.pick(torch.randperm(len(digits), generator=generator(0, "split")))
    training, test = digits.take(1000), digits.skip(1000)
    return phase_plane(
        replace(training, targets=noisy(training.targets, share)),
        test,
        loads=(2, 8) if quick else (2, 4, 8, 32),
        temperatures=(64, 512) if quick else (8, 32, 128, 512),
        lr=0.05,
        epochs=5 if quick else 30,
        seeds=2 if quick else 3,
        resume=folder / "parts" / f"noise-{share}{'-quick' if quick else ''}.sqlite",
        progress=True,
    )


def noisy(targets, share):
    """Labels of which a share is drawn anew, uniformly."""
    drawn = generator(0, "noise")
    lost = torch.rand(len(targets), generator=drawn) < share
    return torch.where(lost, torch.randint(10, targets.shape, generator=drawn), targets)


if __name__ == "__main__":
    main()
