"""Which program wrote a file of losses."""

from itertools import islice
from pathlib import Path

# The separator of run and metric in the columns of a W&B export.
_RUN = " - "


def kind_of_file(path: Path) -> str:
    """Tell the kind of a file from its first characters.

    Args:
        path: a file, or the checkpoint folder of a trainer. One that cannot be read passes for
            "csv", whose reader says why.

    Returns:
        "trainer" for a folder or a JSON object, "tensorboard" for JSON rows or the columns Step
        and Value, "wandb" for a column Step beside columns "run - metric", otherwise "csv".
    """
    if _is_folder(path):
        return "trainer"
    if path.suffix.lower() == ".json":
        return "tensorboard" if _first(path).startswith("[") else "trainer"
    header = [cell.strip().strip('"') for cell in _first(path).split(",")]
    if "Step" not in header:
        return "csv"
    if set(header) <= {"Wall time", "Step", "Value"} and "Value" in header:
        return "tensorboard"
    return "wandb" if any(_RUN in cell for cell in header) else "csv"


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
