"""Progress of long work: one protocol, shown on a terminal where True is asked for."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from lossatlas.errors import ArgumentError

# Seconds between two lines where there is no terminal.
_PAUSE = 2.0


class Progress(Protocol):
    """Is told how far the work is; raising from it stops the work, and what is done is kept."""

    def __call__(self, done: int, total: int, label: str) -> object:
        """Called after every finished part.

        Args:
            done: finished parts.
            total: all parts, as far as known.
            label: what was finished.
        """
        ...


def check_progress(progress: object) -> None:
    """Require something that `show_progress` can use."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise ArgumentError(
            "`progress` must be callable with (done, total, label), or True to show it; got "
            f"{type(progress).__name__}."
        )


@contextmanager
def show_progress(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """What is to be told about progress, while the block runs.

    Args:
        progress: a callable of your own; True for a bar on a terminal (or in a notebook) and
            a line now and then elsewhere, on stderr; False or None for nothing.

    Yields:
        A callable, or None.

    Raises:
        ArgumentError: something that cannot be called.

    Examples:
        >>> with show_progress(lambda *told: print(*told)) as tell:
        ...     tell(1, 2, "first")
        1 2 first
    """
    check_progress(progress)
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        with _bar() as tell:
            yield tell
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich import progress as rich
    from rich.console import Console
    from rich.markup import escape

    columns = (
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}"),
    )
    console = None if "ipykernel" in sys.modules else Console(file=sys.stderr)
    with rich.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, label: bar.update(
            task, completed=done, total=total, description=escape(label)
        )


class _Lines:
    """A line on stderr every few seconds, and one at the end."""

    def __init__(self) -> None:
        self._told = -math.inf

    def __call__(self, done: int, total: int, label: str) -> None:
        if done >= total or time.monotonic() - self._told >= _PAUSE:
            self._told = time.monotonic()
            sys.stderr.write(f"{done} of {total}: {label}\n")
