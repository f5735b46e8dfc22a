"""The ledger of unfinished work: an SQLite file that survives SIGKILL at any time."""

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lossatlas.checks import check_path
from lossatlas.errors import ResumeError

_MAGIC = b"SQLite format 3\0"
# Written into the header of the file, so that it is known as ours before a byte is changed.
_APPLICATION = 0x6C617467
_TABLES = {"run", "object"}
# What SQLite keeps beside an open base.
BESIDE = ("-wal", "-shm")
_FOREIGN = {"SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_SCHEMA"}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS object (key TEXT PRIMARY KEY, data BLOB NOT NULL);
"""


def remove_ledger(path: str | Path) -> None:
    """Remove a resume file, if it exists, with its SQLite side files.

    Args:
        path: the file.

    Raises:
        ResumeError: the file is not a resume file; it is not changed.
    """
    file = check_path("path", path)
    if not file.exists():
        return
    _check_ours(file)
    # The base last: without it nobody could tell what the others are.
    for suffix in (*BESIDE, ""):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def is_ledger(path: Path) -> bool:
    """Whether a file is a resume file, judged by its header."""
    try:
        _check_ours(path)
    except (ResumeError, OSError):
        return False
    return path.is_file()


def _check_ours(path: Path) -> None:
    # SQLite takes a file of a few bytes for an empty base and writes over it.
    if path.is_dir():
        raise ResumeError(f"'{path}' is a folder, not a resume file; give a file.")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            head = file.read(100)
        if not head.startswith(_MAGIC):
            raise ResumeError(
                f"'{path}' is not a resume file (no SQLite header); name another file or "
                "remove it."
            )
        application = int.from_bytes(head[68:72], "big")
        if application != _APPLICATION and (application or _tables(path) != _TABLES):
            raise ResumeError(
                f"'{path}' is a database of another program, not a resume file; it was not "
                "changed: use another file."
            )


def _tables(path: Path) -> set[str]:
    # Immutable: SQLite neither writes nor makes a file beside it.
    place = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(place, uri=True)) as base:
            rows = base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name for (name,) in rows}
    except sqlite3.Error as error:
        raise ResumeError(
            f"'{path}' is not a resume file ({error}); name another file or remove it."
        ) from None


def _reason(path: Path, error: Exception) -> str:
    if getattr(error, "sqlite_errorname", "") in _FOREIGN:
        return f"'{path}' is not a resume file ({error}); name another file or remove it."
    return (
        f"'{path}' cannot be written ({error}); free some space or use another file, and start "
        "again: finished work is kept."
    )


class Ledger:
    """Finished work of one run: objects as bytes, by key.

    An object is stored completely or not at all, even if the process is killed. The file
    records which run it belongs to: opening it for another run is an error.

    Args:
        path: the file; created if missing.
        run: JSON values that identify the run, from `run_identity`.

    Raises:
        ResumeError: the file is damaged, not a ledger, or belongs to another run.

    Examples:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/map.resume"
        >>> with Ledger(path, {"points": 3}) as ledger:
        ...     ledger.put("chunk 1", b"finished")
        ...     ledger.get("chunk 1"), ledger.get("chunk 2")
        (b'finished', None)
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any]) -> None:
        self.path = check_path("resume", path)
        _check_ours(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, isolation_level=None)
            self._base.execute(f"PRAGMA application_id={_APPLICATION}")
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.executescript(_SCHEMA)
            self._claim({key: json.dumps(value, sort_keys=True) for key, value in run.items()})
        except ResumeError:
            raise
        except (TypeError, ValueError) as error:
            raise ResumeError(f"`run` must hold plain JSON values ({error}).") from None
        except (sqlite3.Error, OSError) as error:
            raise ResumeError(_reason(self.path, error)) from None

    def _claim(self, run: dict[str, str]) -> None:
        stored = dict(self._base.execute("SELECT key, value FROM run"))
        if not stored:
            with self._base:
                self._base.execute("BEGIN")
                self._base.executemany("INSERT INTO run VALUES (?, ?)", run.items())
            return
        different = [key for key in run | stored if run.get(key) != stored.get(key)]
        if different:
            self._base.close()
            raise ResumeError(
                f"'{self.path}' belongs to another run: {', '.join(sorted(different))} "
                "differ; use another resume file, or repeat the settings of that run."
            )

    def get(self, key: str) -> bytes | None:
        """Read a finished object.

        Args:
            key: its name.

        Returns:
            Its bytes, or None if it is not finished.

        Raises:
            ResumeError: the file is damaged.
        """
        try:
            row = self._base.execute("SELECT data FROM object WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise ResumeError(f"'{self.path}' is damaged ({error}); remove it.") from None
        return None if row is None else bytes(row[0])

    def put(self, key: str, data: bytes) -> None:
        """Store a finished object; it is on disk when this returns.

        Args:
            key: its name.
            data: its bytes, as returned by `get`.

        Raises:
            ResumeError: the disk is full or the file cannot be written.
        """
        try:
            self._base.execute("INSERT OR REPLACE INTO object VALUES (?, ?)", (key, data))
        except sqlite3.Error as error:
            raise ResumeError(_reason(self.path, error)) from None

    def __contains__(self, key: str) -> bool:
        row = self._base.execute("SELECT 1 FROM object WHERE key = ?", (key,)).fetchone()
        return row is not None

    def __len__(self) -> int:
        return int(self._base.execute("SELECT COUNT(*) FROM object").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._base.close()


def open_ledger(
    path: str | Path | None, run: Mapping[str, Any]
) -> AbstractContextManager[Ledger | None]:
    """Open the ledger of a run; None without a resume file.

    Args:
        path: the file, or None.
        run: as for `Ledger`.

    Returns:
        A context manager that closes the file.

    Raises:
        ResumeError: as for `Ledger`.

    Examples:
        >>> with open_ledger(None, {}) as ledger:
        ...     print(ledger)
        None
    """
    return nullcontext() if path is None else Ledger(path, run)
