"""The one sink: results to stdout, everything else to stderr."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossatlas.executor import Progress


class _Bar:
    """A bar that can be filled, and given another label."""

    def __init__(self, bar: Any, label: str) -> None:
        self._bar, self._task = bar, bar.add_task(label, total=None)

    def __call__(self, done: int, total: int, label: str) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def stage(self, label: str, done: int, total: int) -> None:
        self._bar.reset(self._task, description=label.lower(), completed=done, total=total)


class Output:
    """Says things the way the user asked for.

    Args:
        as_json: one JSON object on stdout and nothing else there.
        quiet: no progress and no notes.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet

    def note(self, text: str) -> None:
        """Tell a person what is going on; stderr."""
        if not self.quiet:
            sys.stderr.write(f"{text}\n")

    def result(self, data: dict[str, Any], title: str, rows: Sequence[Sequence[str]]) -> None:
        """The result: a JSON object, or a table."""
        if self.as_json:
            sys.stdout.write(json.dumps(_plain(data), allow_nan=False) + "\n")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), show_header=False, title_justify="left")
        for _ in range(max((len(row) for row in rows), default=0)):
            # A path that is cut off cannot be opened.
            table.add_column(overflow="fold")
        for row in rows:
            # Text, not markup: a name in square brackets is a name.
            table.add_row(*(Text(cell) for cell in row))
        Console(file=sys.stdout).print(table)

    @contextmanager
    def progress(self, label: str) -> Iterator["Progress | None"]:
        """A bar with the time left, on stderr."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(file=sys.stderr)
        with Progress(*columns, console=console, transient=True) as bar:
            yield _Bar(bar, label)

    def stage(self, progress: "Progress | None") -> "Callable[[str, int, int], None] | None":
        """What tells a person which instrument is at work."""
        if not isinstance(progress, _Bar):
            return None
        return progress.stage


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
