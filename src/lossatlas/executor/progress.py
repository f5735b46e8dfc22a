"""Progress of long work: a callback protocol, and a display on the terminal."""

import html
import importlib
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lossatlas.errors import ArgumentError
from lossatlas.text import duration

# Seconds between two lines where there is no terminal.
_PAUSE = 2.0
# The same in a notebook, where a line replaces the one before.
_CELL_PAUSE = 0.2


class Progress(Protocol):
    """Progress callback; raising an error in it stops the work, and finished parts are kept."""

    def __call__(self, done: int, total: int, label: str) -> object:
        """Called after every finished part.

        Args:
            done: number of finished parts.
            total: number of all parts, as far as known.
            label: name of the finished part.
        """
        ...


def check_progress(progress: object) -> None:
    """Require something that `show_progress` can use."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise ArgumentError(
            "`progress` must be callable with (done, total, label), or True to show it; got "
            f"{type(progress).__name__}."
        )


def kernel() -> Any:
    """The notebook kernel of this process, or None."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None)


@contextmanager
def show_progress(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Context manager that yields the progress callback.

    Args:
        progress: a callable; True for a progress bar on a terminal or in a notebook, and
            occasional lines on stderr elsewhere; False or None for nothing.

    Yields:
        A callable, or None.

    Raises:
        ArgumentError: `progress` is not callable.

    Examples:
        >>> with show_progress(print) as report:
        ...     report(1, 2, "first")
        1 2 first
    """
    check_progress(progress)
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    elif kernel() is not None:
        yield _Cell()
    elif sys.stderr.isatty():
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
    with rich.Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, label: bar.update(
            task, completed=done, total=total, description=escape(label)
        )


class _Cell:
    """A bar with the time left under a cell of a notebook; a line remains at the end."""

    def __init__(self) -> None:
        self._began, self._told = time.monotonic(), -math.inf
        self._place: Any = None

    def __call__(self, done: int, total: int, label: str) -> None:
        now = time.monotonic()
        if done >= total or now - self._told >= _CELL_PAUSE:
            self._told = now
            self._show(_told(done, total, label, now - self._began), done, total)

    def _show(self, text: str, done: int, total: int) -> None:
        # Without types of its own, and only there in notebooks.
        display: Any = importlib.import_module("IPython.display").display
        bar = f'<progress value="{done}" max="{total}"></progress> ' if done < total else ""
        shown = {"text/plain": text, "text/html": f"<div>{bar}{html.escape(text)}</div>"}
        if self._place is None:
            self._place = display(shown, raw=True, display_id=True)
        else:
            self._place.update(shown, raw=True)


def _told(done: int, total: int, label: str, seconds: float) -> str:
    if done >= total:
        return f"{done} of {total} in {duration(seconds)}: {label}"
    left = f", {duration(seconds / done * (total - done))} left" if done else ""
    return f"{done} of {total}{left}: {label}"


class _Lines:
    """A line on stderr every few seconds, and one at the end."""

    def __init__(self) -> None:
        self._told = -math.inf

    def __call__(self, done: int, total: int, label: str) -> None:
        if done >= total or time.monotonic() - self._told >= _PAUSE:
            self._told = time.monotonic()
            sys.stderr.write(f"{done} of {total}: {label}\n")
