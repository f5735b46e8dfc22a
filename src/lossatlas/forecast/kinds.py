"""Which program wrote a file of losses."""

from itertools import islice
from pathlib import Path

# The separator of run and metric in the columns of a W&B export.
_RUN = " - "


def kind_of_file(path: Path) -> str:
    """Tell the kind of a file from its first characters."""
    if _is_folder(path):
        return "trainer"
    if path.suffix.lower() == ".json":
        return "tensorboard" if _first(path).startswith("[") else "trainer"
    header = [cell.strip().strip('"') for cell in _first(path).split(",")]
    if set(header) <= {"Wall time", "Step", "Value"} and {"Step", "Value"} <= set(header):
        return "tensorboard"
    exported = any(cell.endswith(("__MIN", "__MAX")) for cell in header)
    charted = "Step" in header and any(_RUN in cell for cell in header)
    return "wandb" if exported or charted else "csv"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _first(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return next((line.strip() for line in islice(lines, 10) if line.strip()), "")
    except (OSError, ValueError):
        return ""
