"""Logs as tables of text: CSV files, JSON lines and arrays of JSON objects."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.checks import check_path
from lossatlas.errors import DataError, FileError
from lossatlas.forecast.log_names import check_column, check_name
from lossatlas.forecast.log_order import Column

EMPTY = ("", "null", "none", "n/a", "na", "-")


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a log, cells as text, with the names of their columns.

    Attributes:
        path: the file.
        header: names of the columns.
        rows: cells, one a column.
        lines: the line of the file where each row stands.
        notes: what was left out, in sentences.
    """

    path: str | Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    notes: list[str]

    @property
    def whose(self) -> str:
        """How messages call the file."""
        return f"'{self.path}'"

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """Read a CSV file."""
        try:
            lines = list(csv.reader(text_of(path).splitlines()))
        except csv.Error as error:
            raise FileError(f"'{path}' is not CSV ({error}).") from None
        if len(lines) < 2:
            raise DataError(f"'{path}' is empty: a header and at least one row are needed.")
        header = [cell.strip() for cell in lines[0]]
        _refuse_twins(path, header)
        rows = [row for row in lines[1:] if any(cell.strip() for cell in row)]
        notes = []
        if rows and len(rows[-1]) < len(header):
            # A run that was killed while it wrote leaves half a row.
            notes.append("the last row is cut off and left out")
            rows = rows[:-1]
        odd = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
        if odd is not None:
            raise DataError(
                f"'{path}' has {len(rows[odd])} cells in row {odd + 2} but {len(header)} "
                "columns."
            )
        return cls(path, header, rows, list(range(2, len(rows) + 2)), notes)

    @classmethod
    def read_json(cls, path: str | Path) -> "Table":
        """Read JSON lines, or an array of objects; nested keys are joined by "/"."""
        notes: list[str] = []
        entries = _objects(path, notes)
        flat = [(line, dict(_cells(entry))) for line, entry in entries]
        header = list(dict.fromkeys(name for _, cells in flat for name in cells))
        if not flat or not header:
            raise DataError(f"'{path}' is empty: at least one object with numbers is needed.")
        rows = [[cells.get(name, "") for name in header] for _, cells in flat]
        return cls(path, header, rows, [line for line, _ in flat], notes)

    def column(self, name: str) -> Column:
        """The numbers of a column."""
        check_name(name)
        check_column(self.whose, self.header, name)
        at = self.header.index(name)
        values = np.full(len(self.rows), np.nan)
        present = np.zeros(len(self.rows), dtype=bool)
        for i, row in enumerate(self.rows):
            cell = row[at].strip()
            if cell.lower() in EMPTY:
                continue
            try:
                values[i], present[i] = float(cell), True
            except ValueError:
                raise DataError(
                    f"'{self.path}', row {self.lines[i]}, column '{name}': '{cell}' is not a "
                    "number; leave units out."
                ) from None
        return Column(values, present)


# The W&B export repeats no name either: a second column would be read by nobody.
def _refuse_twins(path: str | Path, header: Sequence[str]) -> None:
    twin = next((name for name in header if name and header.count(name) > 1), None)
    if twin:
        raise DataError(f"'{path}' has the column '{twin}' more than once; rename or drop one.")


# The line of each object of a log, and the object.
def _objects(path: str | Path, notes: list[str]) -> list[tuple[int, Mapping[str, Any]]]:
    text = text_of(path)
    if text.lstrip().startswith("["):
        entries = list(enumerate(json_of(path), 1))
    else:
        entries = _lines(path, text, notes)
    odd = next((line for line, entry in entries if not isinstance(entry, dict)), None)
    if odd is not None:
        raise DataError(f"'{path}', entry {odd}, is no JSON object, as in {{\"step\": 1}}.")
    return entries


def _lines(path: str | Path, text: str, notes: list[str]) -> list[tuple[int, Any]]:
    lines = [(k, line) for k, line in enumerate(text.splitlines(), 1) if line.strip()]
    entries = []
    for k, line in lines:
        try:
            entries.append((k, json.loads(line)))
        except (json.JSONDecodeError, RecursionError) as error:
            # A run that was killed while it wrote leaves half a line.
            if k == lines[-1][0] and len(lines) > 1:
                notes.append("the last row is cut off and left out")
                continue
            raise FileError(f"'{path}', line {k}, is not JSON ({error}).") from None
    return entries


# Names and texts of the cells of an object; lists (histograms, pictures) are no cells.
def _cells(entry: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in entry.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            yield from _cells(value, f"{name}/")
        elif value is None:
            yield name, ""
        elif not isinstance(value, list):
            yield name, value if isinstance(value, str) else repr(value)


def text_of(path: str | Path) -> str:
    """The text of a file."""
    place = check_path("path", path)
    try:
        return place.read_text(encoding="utf-8-sig")
    # A ValueError is a null byte in the name, or text in another encoding.
    except (OSError, ValueError) as error:
        raise FileError(f"'{path}' cannot be read as text ({error}).") from None


def json_of(path: str | Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(text_of(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileError(f"'{path}' is not JSON ({error}).") from None
