"""Whole or not at all: a file appears under its name only when it is complete."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossatlas.errors import FileError


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Write to a temporary neighbour that takes the name `path` when the block succeeds.

    Args:
        path: where the file shall be; missing folders are made.

    Yields:
        The temporary path to write to.

    Raises:
        FileError: the place cannot be written (permissions, a full disk); nothing is left.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
    except OSError as error:
        raise FileError(_sentence(target, error)) from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except FileError:
        raise
    except OSError as error:
        raise FileError(_sentence(target, error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder and see that it takes files, before long work relies on it.

    Args:
        path: the folder; its parents are made too.

    Returns:
        The path.

    Raises:
        FileError: it cannot be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise FileError(_sentence(folder, error)) from None


def check_readable(path: str | Path, what: str) -> Path:
    """Require a plain file that is there and not empty.

    Args:
        path: the file.
        what: what it should hold, for the message ("a survey", "weights").

    Returns:
        The path.

    Raises:
        FileError: missing, a folder, or empty.
    """
    target = Path(path)
    if not target.is_file():
        state = "is a folder" if target.is_dir() else "does not exist"
        raise FileError(f"'{target}' {state}; expected a file with {what}.")
    if target.stat().st_size == 0:
        raise FileError(f"'{target}' is empty; expected a file with {what}.")
    return target


def _sentence(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"'{path}' was not written: the disk is full; free some space and try again."
    reason = error.strerror or str(error)
    return f"'{path}' was not written ({reason}); choose a folder that can be written."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
