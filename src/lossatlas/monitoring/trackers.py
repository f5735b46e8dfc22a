"""Experiment trackers: one `log(values, step)` for TensorBoard, W&B, MLflow, and a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lossatlas.errors import ArgumentError, FileError


class Tracker(Protocol):
    """Protocol of trackers."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers.

        Args:
            values: name -> number.
            step: number of updates.
        """
        ...


class TensorBoard:
    """Tracker for a `SummaryWriter`, or any object with `add_scalar`.

    Args:
        writer: the writer.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; see `Tracker`.

        Args:
            values: name -> number.
            step: number of updates.
        """
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)


class Wandb:
    """Tracker for a W&B run, online or offline, or the module `wandb` after `init`.

    Args:
        run: object with `log(values, step=)`.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; see `Tracker`.

        Args:
            values: name -> number.
            step: number of updates.
        """
        self.run.log(dict(values), step=step)


class MLflow:
    """Tracker for the module `mlflow` with an active run.

    Args:
        module: object with `log_metrics(values, step=)`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; see `Tracker`.

        Args:
            values: name -> number.
            step: number of updates.
        """
        self.module.log_metrics(dict(values), step=step)


class JsonLines:
    """Tracker that writes one JSON object per line to a file.

    Args:
        path: file to append to; created if missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; see `Tracker`.

        Args:
            values: name -> number.
            step: number of updates.

        Raises:
            FileError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise FileError(f"'{self.path}' cannot be written ({error.strerror}).") from None


def as_tracker(thing: Any) -> Tracker:
    """Convert an object to a tracker.

    Args:
        thing: a path, a `SummaryWriter`, the module `mlflow`, a W&B run, or a tracker.

    Returns:
        The tracker.

    Raises:
        ArgumentError: `thing` is none of these.
    """
    if isinstance(thing, TensorBoard | Wandb | MLflow | JsonLines):
        return thing
    if isinstance(thing, str | Path):
        return JsonLines(thing)
    if hasattr(thing, "add_scalar"):
        return TensorBoard(thing)
    if hasattr(thing, "log_metrics"):
        return MLflow(thing)
    if hasattr(thing, "log"):
        return Wandb(thing)
    raise ArgumentError(
        "`tracker` must be a SummaryWriter, a run of W&B, the module mlflow, a path, or have "
        f"log(values, step=); got {type(thing).__name__}."
    )
