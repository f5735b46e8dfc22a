"""Origin of an error: user code, or installed packages."""

import inspect
import os
import sysconfig
import traceback
from pathlib import Path

# Code that the user did not write: this library, Python's own, installed packages.
_INSTALLED = tuple(
    f"{folder}{os.sep}"
    for folder in (Path(__file__).parent, *map(sysconfig.get_path, ("stdlib", "platstdlib")))
)
_PACKAGES = ("site-packages", "dist-packages")
# Names in angle brackets belong to generated code, but for those of interactive sessions.
_INTERACTIVE = ("<stdin", "<python-input", "<ipython-input", "<console", "<doctest")


def user_frame(error: BaseException, *, but: str = "") -> traceback.FrameSummary | None:
    """Last line of user code that an error passed through."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((f for f in frames if f.filename != but and _is_the_users(f.filename)), None)


def user_level() -> int:
    """The `stacklevel` with which a warning of the caller points to user code."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and not _is_the_users(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level


def reason_of(error: BaseException) -> str:
    """Summary of a foreign error in one line: its class, first line, and location."""
    try:
        lines = str(error).strip().rstrip(".").splitlines()
    except Exception:
        # An error whose own text fails still has a name and a place.
        lines = []
    frame = user_frame(error)
    place = f" in {Path(frame.filename).name}, line {frame.lineno}" if frame else ""
    return ": ".join([type(error).__name__, *lines[:1]]) + place


def _is_the_users(file: str) -> bool:
    if file.startswith("<"):
        return file.startswith(_INTERACTIVE)
    # Compiled extensions of packages give the relative path of their source.
    if file.endswith((".pyx", ".pxd")) and not Path(file).is_absolute():
        return False
    return not file.startswith(_INSTALLED) and not any(name in file for name in _PACKAGES)
