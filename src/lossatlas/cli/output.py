"""The one sink: results to stdout, everything else to stderr."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lossatlas.result import Result

Rows = Sequence[Sequence[str]]
# Seconds between two lines of progress where there is no terminal.
_BETWEEN = 3.0


class Progress:
    """How far a command is: a bar on a terminal, a line now and then elsewhere.

    Args:
        label: what is going on.
        output: where lines go.
        bar: rich's, where there is a terminal.
    """

    def __init__(self, label: str, output: "Output", bar: Any = None) -> None:
        self.label, self._output, self._bar, self._last = label, output, bar, -math.inf
        self._task = None if bar is None else bar.add_task(label, total=None)

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """So many steps of so many are done."""
        if self._bar is not None:
            self._bar.update(self._task, description=self.label, completed=done, total=total)
        else:
            self.line(f"{self.label}: {done:,} of {total:,}{label and f' ({label})'}")

    def stage(self, label: str, done: int, total: int) -> None:
        """Another part begins."""
        self.label = label.lower()
        if self._bar is not None:
            self._bar.reset(self._task)
        self(done, total)

    def line(self, text: str) -> None:
        """A sentence about what was done, unless another one was told just before."""
        if time.monotonic() - self._last >= _BETWEEN:
            self._output.note(text)
            self._last = time.monotonic()


class Output:
    """Says things the way the user asked for.

    Args:
        as_json: one JSON object on stdout and nothing else there.
        quiet: no progress and no notes.
        settings: those of the command; they stand in the JSON object.
        silent: nothing at all: another process says it.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        settings: "BaseModel | None" = None,
        silent: bool = False,
    ) -> None:
        self.as_json, self.quiet, self._settings = as_json, quiet or silent, settings
        self.silent = silent

    def note(self, text: str) -> None:
        """Tell a person what is going on; stderr."""
        if not self.quiet:
            sys.stderr.write(f"{text}\n")

    def result(
        self,
        found: "Result | Mapping[str, Any]",
        title: str,
        rows: Rows = (),
        *,
        files: Mapping[str, Path] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Print a result: as a JSON object, or as a table.

        Args:
            found: a result, or what the object holds.
            title: of the table.
            rows: of the table; by default the estimates of the result.
            files: what was written.
            extra: further entries of the object.
        """
        if self.silent:
            return
        written = {name: str(path) for name, path in (files or {}).items()}
        if self.as_json:
            used = {} if self._settings is None else self._settings.model_dump(mode="json")
            held = dict(found) if isinstance(found, Mapping) else found.summary()
            data = {**held, **(extra or {}), "files": written, "settings": used}
            sys.stdout.write(json.dumps(_plain(data), allow_nan=False) + "\n")
        else:
            lines = rows if rows or isinstance(found, Mapping) else _lines(found)
            _print_table(title, [*lines, *((name, path, "") for name, path in written.items())])
            for sentence in () if isinstance(found, Mapping) else found.sentences():
                sys.stdout.write(f"{sentence}\n")

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """A bar with the time left, on stderr; nothing where the command is quiet."""
        if self.quiet or not sys.stderr.isatty():
            yield Progress(label, self)
        else:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            console = Console(file=sys.stderr)
            with Bar("{task.description}", *columns, console=console, transient=True) as bar:
                yield Progress(label, self, bar)


def _lines(found: "Result") -> Rows:
    headline = found.headline()
    return [*([("", "", headline)] if headline else []), *found.rows()]


def _print_table(title: str, rows: Rows) -> None:
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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
