"""Options that several commands share: the network, its weights, its data."""

import re
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

# Help and note of commands that take the checkpoints of a training in its order.
TRAINING_FILES = "Checkpoints of a training; sorted by the last number in the name."
IN_ORDER = "checkpoints are taken in the order of the numbers in their names"


class SubjectSettings(Strict):
    """Settings of a network, its weights and its data."""

    model: str | None = subject(None, f"{MODEL} By default mlp(32).", short="m")
    weights: Path | None = subject(None, "Trained weights, where the command takes no files.")
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
        "batch; recalibrated = measured anew there. By default eval: each checkpoint with its "
        "own, and averages of checkpoints with the average of theirs.",
    )
    device: str = subject("cpu", DEVICE)
    seed: int = common(0, SEED, ge=0)


def check_files(files: Sequence[Path], minimum: int, what: str) -> None:
    """Require so many files; for validators of settings."""
    if len(files) < minimum:
        raise ValueError(f"`files` must be {what}; got {len(files)}")


def in_order(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], list[int]]:
    """Checkpoints and their steps, by the last number in each name.

    Args:
        files: as a shell lists them: step-100 before step-50.

    Returns:
        The files in order, and their steps; as given, with 0, 1, 2 ..., where a name holds no
        number or two hold the same.
    """
    numbers = [re.findall(r"\d+", file.stem) for file in files]
    steps = [int(match[-1]) for match in numbers if match]
    if len({*steps}) < len(files):
        return files, list(range(len(files)))
    by_step = dict(zip(steps, files, strict=True))
    return tuple(by_step[step] for step in sorted(steps)), sorted(steps)


def short_names(files: tuple[Path, ...]) -> list[str]:
    """What checkpoints are called: names without their ending where that sets them apart."""
    short = [file.stem for file in files]
    return short if len(set(short)) == len(short) else [str(file) for file in files]
