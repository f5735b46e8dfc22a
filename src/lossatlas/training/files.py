"""Paths that must exist, and short error reasons for messages."""

from pathlib import Path

from lossatlas.errors import FileError


def existing_file(path: str | Path, what: str) -> Path:
    """Require a file."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise FileError(f"'{file}' is a folder; give the path of {what}.")
    if not file.is_file():
        raise FileError(f"there is no file '{file}'; give the path of {what}.")
    return file


def existing_folder(path: str | Path, what: str) -> Path:
    """Require a folder."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileError(f"there is no folder '{folder}'; give the path of {what}.")
    return folder


def reason(error: BaseException) -> str:
    """Message of an error, short enough for parentheses."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")
