"""One writer per folder: a lock that ends with its process."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lossatlas.errors import FileError
from lossatlas.io.files import clear_stale, make_folder

LOCK = ".lossatlas.lock"


@contextmanager
def occupied(folder: str | Path, name: str = "") -> Iterator[Path]:
    """Lock a folder for writing; a second writer raises an error immediately.

    The operating system holds the lock, so it ends with the process in any case. Partial files
    of killed processes in the folder are removed.

    Args:
        folder: the folder; created if missing.
        name: common name of files in it; then these are locked instead of the folder.

    Yields:
        The folder.

    Raises:
        FileError: another process writes there (the message names it), or it is not writable.
    """
    place = make_folder(folder)
    path = place / (f".{name}{LOCK}" if name else LOCK)
    file = _locked(path)
    if file is None:
        raise FileError(
            f"'{place / name}' is being written by another run ({_owner(path)}); wait for it, "
            f"or use another {'name' if name else 'folder'} (--out)."
        )
    try:
        clear_stale(place)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield place
    finally:
        # Before it is let go: whoever opened the old file finds that it has no name.
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path) -> IO[str] | None:
    try:
        import fcntl
    except ImportError:
        # Windows has no such lock; two writers are not separated there.
        return path.open("w")
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        if _is_at(file, path):
            file.truncate(0)
            return file
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        return path.read_text() or "it just began"
    except OSError:
        return "it just ended"
