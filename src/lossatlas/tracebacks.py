"""Where an error comes from: code of the user, or code that is installed."""

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
    """The last line of the user's own code that an error passed through.

    Args:
        error: as it was caught; frames above the place where it was caught do not count.
        but: a file that does not count as the user's.

    Returns:
        File and line, or None where all of them are this library, Python or packages.
    """
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((f for f in frames if f.filename != but and _is_the_users(f.filename)), None)


def _is_the_users(file: str) -> bool:
    if file.startswith("<"):
        return file.startswith(_INTERACTIVE)
    return not file.startswith(_INSTALLED) and not any(name in file for name in _PACKAGES)
