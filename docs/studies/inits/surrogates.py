"""Stages 1 and 2 of the study, resumable: `python docs/studies/inits/surrogates.py`.

100,000 pairs of parameters and true loss; predictors fitted to 1,500 of them for 15 epochs at
most, which is what a minute of one processor allows, and tried on 2,000 that none has seen.
"""

import logging
from pathlib import Path

import torch

from lossatlas.inits.pipeline import run_stage
from lossatlas.inits.settings import GenerateSettings, InitsSettings, SurrogateSettings

FOLDER = Path(__file__).parent / "parts" / "surrogates"
SETTINGS = InitsSettings(
    model="mlp(32, 32)",
    data="digits",
    out=FOLDER,
    generate=GenerateSettings(samples=100_000),
    surrogate=SurrogateSettings(limit=1500, held_out=0.02, epochs=15),
)


def main() -> None:
    """Samples and predictors; what is there is not made again."""
    torch.set_num_threads(1)
    for stage in ("generate", "fit-surrogate"):
        run_stage(SETTINGS, stage, progress=logging.info)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
