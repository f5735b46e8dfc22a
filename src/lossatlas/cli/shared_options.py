"""Options that several commands share: the network, its weights, its data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lossatlas.settings import (
    DATA,
    DEVICE,
    EXAMPLES,
    LOSS,
    MODEL,
    SEED,
    Strict,
    common,
    subject,
)  # fmt: skip


class SubjectSettings(Strict):
    """Settings of a network, its weights and its data."""

    model: str | None = subject(
        None, f"{MODEL} By default a small network is trained.", short="m"
    )
    weights: Path | None = subject(None, "Trained weights, the same as one file.")
    key: str | None = subject(None, "Where the weights are in a file, as in ema.")
    prefix: str | None = subject(None, "Keep names that begin so, and strip it.")
    data: str = subject("digits", DATA, short="d")
    loss: str | None = subject(None, LOSS)
    objective: str | None = subject(
        None,
        "Your own objective in place of model, data and loss: package.module:make or "
        "path/file.py:make, a function without arguments that returns a lossatlas.Objective.",
    )
    batch_size: int = subject(256, "Examples a batch.", ge=1)
    examples: int | None = subject(None, EXAMPLES, ge=1)
    mode: Literal["eval", "train", "recalibrated"] | None = subject(
        None,
        "How BatchNorm behaves at each point: eval = stored statistics; train = those of the "
        "batch; recalibrated = measured anew there. By default eval, and recalibrated where "
        "two files are compared and the model keeps running statistics.",
    )
    device: str = subject("cpu", DEVICE)
    seed: int = common(0, SEED, ge=0)


def check_files(files: Sequence[Path], minimum: int, what: str) -> None:
    """Require so many files; for validators of settings."""
    if len(files) < minimum:
        raise ValueError(f"`files` must be {what}; got {len(files)}")
