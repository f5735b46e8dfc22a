"""Atomic writes: a file appears under its name only when it is complete."""

import errno
import hashlib
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossatlas.checks import check_path
from lossatlas.errors import FileError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}-(\d+)-\w+")


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Write to a temporary file that is renamed to `path` when the block succeeds.

    Args:
        path: the final path; missing folders are created.

    Yields:
        The temporary path to write to.

    Raises:
        FileError: the path cannot be written (permissions, a full disk); no file is left.
    """
    target = check_path("path", path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_stale(target.parent, target.name)
        prefix = f".{target.name}.{_host()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix)
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


def clear_stale(folder: Path, name: str | None = None) -> None:
    """Remove partial files of dead processes."""
    if os.name == "nt":
        # There is no harmless way to ask whether a process lives.
        return
    for path in folder.glob(f".{name or '*'}.{_host()}-*-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            path.unlink(missing_ok=True)


def _host() -> str:
    # A folder may be shared: processes of other machines cannot be asked for.
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def make_folder(path: str | Path) -> Path:
    """Create a folder and check that it is writable, before long work relies on it.

    Args:
        path: the folder; its parents are created too.

    Returns:
        The path.

    Raises:
        FileError: the folder cannot be created or written.
    """
    folder = check_path("path", path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise FileError(_sentence(folder, error)) from None


def check_readable(path: str | Path, what: str) -> Path:
    """Require an existing, non-empty regular file."""
    target = check_path("path", path)
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
    return f"'{path}' was not written ({reason}); choose a writable folder."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
