"""Resume files of a command, before it starts."""

from collections.abc import Sequence
from pathlib import Path

from lossatlas.cli.output import Output
from lossatlas.io import remove_ledger


def prepare_ledgers(paths: Sequence[Path], output: Output, *, resume: bool) -> None:
    """Remove what an earlier run left, or say that there is nothing to go on from."""
    if resume and not any(path.exists() for path in paths):
        output.note(f"nothing to resume in {paths[0].parent}; starting anew")
    for path in () if resume else paths:
        remove_ledger(path)
