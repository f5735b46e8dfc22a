"""The one sink: results to stdout, everything else to stderr."""

import csv
import json
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.text import duration

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lossatlas.result import Result

Rows = Sequence[Sequence[str]]
# Seconds between two lines of progress where there is no terminal.
_BETWEEN = 3.0
# Characters that the last column of a table keeps on a narrow screen.
_REMARK = 20


@dataclass(frozen=True)
class Printed:
    """What a command prints of its result, in either form.

    Attributes:
        data: the JSON object, without files and settings.
        title: of the table.
        rows: of the table.
        sentences: below it.
        files: name -> path of what was written.
    """

    data: Mapping[str, Any]
    title: str
    rows: Rows
    sentences: Sequence[str]
    files: Mapping[str, str]


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
        self._began = time.monotonic()

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """So many steps of so many are done."""
        detail = f" ({label})" if label else ""
        if self._bar is not None:
            from rich.markup import escape

            shown = escape(f"{self.label}{detail}")
            self._bar.update(self._task, description=shown, completed=done, total=total)
        else:
            left = self._time_left(done, total)
            self.line(f"{self.label}: {done:,} of {total:,}{detail}{left}")

    def stage(self, label: str, done: int, total: int) -> None:
        """Another part begins, after so many of so many."""
        if done == 0:
            self._began = time.monotonic()
            if self._bar is not None:
                self._bar.reset(self._task)
        self.label = f"{label.lower()}, {done + 1} of {total}"
        if self._bar is not None:
            self._bar.update(self._task, description=self.label, completed=done, total=total)
        else:
            self._output.note(f"{self.label}{self._time_left(done, total)}")

    def line(self, text: str) -> None:
        """A sentence about what was done, unless another one was printed just before."""
        if time.monotonic() - self._last >= _BETWEEN:
            self._output.note(text)
            self._last = time.monotonic()

    # At the pace so far; nothing where it is too early to say.
    def _time_left(self, done: int, total: int) -> str:
        spent = time.monotonic() - self._began
        if spent < _BETWEEN or not 0 < done < total:
            return ""
        return f", about {duration(spent * (total - done) / done)} left"


class Output:
    """Says things the way the user asked for.

    Args:
        as_json: one JSON object on stdout and nothing else there.
        quiet: no progress and no notes.
        settings: those of the command; they stand in the JSON object.
        silent: nothing at all: another process says it.
        keep: is given what is printed, before it is: a reader may close the pipe early.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        settings: "BaseModel | None" = None,
        silent: bool = False,
        keep: Callable[[Printed], None] | None = None,
    ) -> None:
        self.as_json, self.quiet, self._settings = as_json, quiet or silent, settings
        self.silent, self._keep = silent, keep

    def note(self, text: str) -> None:
        """Tell a person what is going on; stderr. Nothing where there is nothing to say."""
        if text and not self.quiet:
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
            title: of the table; alerts are lines before it.
            rows: of the table; by default the estimates of the result.
            files: what was written.
            extra: further entries of the object.
        """
        if self.silent:
            return
        if isinstance(found, Mapping):
            data, said = {**found, **(extra or {})}, tuple[str, ...]()
        else:
            headline, said = found.headline(), found.sentences()
            said = (*([headline] if headline and headline not in said else []), *said)
            # What stands above the table is not said again below it.
            said = tuple(text for text in said if text not in title.split("\n"))
            data, rows = {**found.summary(), **(extra or {})}, rows or found.rows()
        written = {name: str(path) for name, path in (files or {}).items()}
        printed = Printed(_plain(data), title, rows, said, written)
        if self._keep is not None:
            self._keep(printed)
        self.show(printed)

    def show(self, printed: Printed) -> None:
        """Print a result, of this run or of an earlier one."""
        if self.as_json:
            used = {} if self._settings is None else self._settings.model_dump(mode="json")
            data = {**printed.data, "files": printed.files, "settings": used}
            sys.stdout.write(json.dumps(_plain(data), allow_nan=False) + "\n")
            return
        _print_table(
            printed.title, [*printed.rows, *((n, p, "") for n, p in printed.files.items())]
        )
        for sentence in printed.sentences:
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
            # The pace of an hour: one instrument may take minutes.
            bar = Bar(
                "{task.description}", *columns, console=Console(file=sys.stderr),
                transient=True, speed_estimate_period=3600,
            )  # fmt: skip
            with bar:
                yield Progress(label, self, bar)


# A table where every name and value fits on its line; otherwise a line each, so that a number
# or a path is never broken in two.
def _print_table(title: str, rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    rows = [_without_empty_end(row) for row in rows]
    columns = max((len(row) for row in rows), default=0)
    padded = [(*row, *("" for _ in range(columns - len(row)))) for row in rows]
    if columns and _width(padded) > console.width:
        sys.stdout.write("\n".join([title, *_as_lines(padded), ""]))
        return
    # Not the title of the table, which would be folded to its width.
    sys.stdout.write(f"{title}\n")
    table = Table(show_header=False)
    for column in range(columns):
        table.add_column(overflow="fold", no_wrap=column < columns - 1)
    for row in padded:
        # Text, not markup: a name in square brackets is a name.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _without_empty_end(row: Sequence[str]) -> Sequence[str]:
    return row[: max((k for k, cell in enumerate(row, 1) if cell), default=0)]


# Characters that a table takes: the last column may wrap, down to a third of a usual screen.
def _width(rows: Rows) -> int:
    *columns, last = ([len(cell) for cell in column] for column in zip(*rows, strict=True))
    widths = [max(column) for column in columns] + [min(max(last), _REMARK)]
    return sum(widths) + 3 * len(widths) + 1


def _as_lines(rows: Rows) -> Iterator[str]:
    width = max(shutil.get_terminal_size().columns, 20)
    for first, *others in rows:
        told = [cell for cell in others if cell]
        head = f"{first}: " if first and told else first
        # One word, a path say, is left whole, and so is a share.
        lines = textwrap.wrap(
            (head + ", ".join(told)).replace(" %", "\xa0%"), width, subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        yield from (line.replace("\xa0%", " %") for line in lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def write_csv(path: Path, columns: Mapping[str, Any]) -> Path:
    """Columns of one length, arrays or lists, as a table that other programs read."""
    from lossatlas.io import writing

    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        # Arrays give plain numbers.
        plain = (getattr(c, "tolist", lambda c=c: c)() for c in columns.values())
        writer.writerows(zip(*plain, strict=True))
    return path
