"""Resume files of a command, before it starts."""

from collections.abc import Sequence
from pathlib import Path

from lossatlas.io import remove_ledger


def prepare_ledgers(paths: Sequence[Path], *, resume: bool) -> None:
    """Remove what an earlier run left, unless it is continued."""
    for path in () if resume else paths:
        remove_ledger(path)
