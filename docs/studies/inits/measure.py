"""Train and measure both problems, resumable: `python docs/studies/inits/measure.py`."""

import logging
from pathlib import Path

import torch
from problems import PROBLEMS

from lossatlas.inits.pipeline import run_stage

FOLDER = Path(__file__).parent / "parts"


def main() -> None:
    """Labels, features and scores of every problem; what is there is not made again."""
    torch.set_num_threads(1)
    for name, problem in PROBLEMS.items():
        logging.info(name)
        for stage in ("label", "fit-quality"):
            run_stage(problem(FOLDER), stage, progress=logging.info)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
