"""Paths that must exist, and short reasons for messages."""

from pathlib import Path

from lossatlas.errors import FileError


def existing_file(path: str | Path, what: str) -> Path:
    """Require a file."""
    found = Path(path).expanduser()
    if found.is_dir():
        raise FileError(f"'{found}' is a folder; give the path of {what}.")
    if not found.is_file():
        raise FileError(f"there is no file '{found}'; give the path of {what}.")
    return found


def existing_folder(path: str | Path, what: str) -> Path:
    """Require a folder."""
    found = Path(path).expanduser()
    if not found.is_dir():
        raise FileError(f"there is no folder '{found}'; give the path of {what}.")
    return found


def reason(error: BaseException) -> str:
    """What an error says, short enough to stand in brackets."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")
