"""Experiment trackers: one `log(values, step)` for TensorBoard, W&B, MLflow, and a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lossatlas.errors import ArgumentError, FileError


class Tracker(Protocol):
    """What takes numbers."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take some numbers in.

        Args:
            values: name -> number.
            step: updates done.
        """
        ...


class TensorBoard:
    """A `SummaryWriter`, or what has its `add_scalar`.

    Args:
        writer: the writer.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take some numbers in; see `Tracker`.

        Args:
            values: name -> number.
            step: updates done.
        """
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)


class Wandb:
    """A run of W&B, online or offline, or the module `wandb` after `init`.

    Args:
        run: what has `log(values, step=)`.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take some numbers in; see `Tracker`.

        Args:
            values: name -> number.
            step: updates done.
        """
        self.run.log(dict(values), step=step)


class MLflow:
    """The module `mlflow` with an active run.

    Args:
        module: what has `log_metrics(values, step=)`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take some numbers in; see `Tracker`.

        Args:
            values: name -> number.
            step: updates done.
        """
        self.module.log_metrics(dict(values), step=step)


class JsonLines:
    """A file with one JSON object a line.

    Args:
        path: appended to; made if missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take some numbers in; see `Tracker`.

        Args:
            values: name -> number.
            step: updates done.

        Raises:
            FileError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise FileError(f"'{self.path}' cannot be written ({error.strerror}).") from None


def as_tracker(thing: Any) -> Tracker:
    """A tracker made of what a user has.

    Args:
        thing: a path, a `SummaryWriter`, the module `mlflow`, a run of W&B, or a tracker.

    Returns:
        The tracker.

    Raises:
        ArgumentError: something else.
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
