"""What `lossatlas train` prints: a JSON object, or a table."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from lossatlas.report.readings_trainings import band, headline, shown, signed
from lossatlas.studies.compare.summary import Row, rows
from lossatlas.studies.compare.trainings import Trainings
from lossatlas.text import count, percent, with_error

if TYPE_CHECKING:
    from lossatlas.cli.train_job import Files


def summary(found: Trainings, files: "Files") -> dict[str, Any]:
    """What `--json` prints."""
    made = rows(found)
    return {
        "title": files.title,
        "verdict": headline(found, made),
        "measure": f"test {found.measure}",
        "steps": found.steps,
        "seeds": len(found.seeds),
        "rates": list(found.rates),
        "recipes": [row.to_dict() | {"reasons": _reasons(found, row)} for row in made],
        "results": str(files.results),
        "weights": {name: str(path) for name, path in files.weights.items()},
        "report": str(files.report),
    }


def table(found: Trainings, files: "Files") -> list[tuple[str, ...]]:
    """What a person is shown.

    Args:
        found: the trainings.
        files: where everything lies.

    Returns:
        Rows of cells.
    """
    made = rows(found)
    return _single(found, made[0], files) if len(made) == 1 else _several(found, made, files)


def _several(found: Trainings, made: list[Row], files: "Files") -> list[tuple[str, ...]]:
    unit = "points" if found.measure == "accuracy" else "loss"
    against = f"{unit} above {made[0].recipe} [95 %]"
    head = ("recipe, rate", f"test {found.measure}", against, "CPU time")
    lines = [head, *(_line(found, row) for row in made)]
    for row in made:
        if row.untuned is not None:
            gap = f"{signed(found, row.untuned.mean)} {band(found, row.untuned)}"
            lines.append((f"{row.recipe}, all rates", "", f"{gap} {row.untuned.verdict}", ""))
    return [*lines, ("report", str(files.report), "", "")]


def _line(found: Trainings, row: Row) -> tuple[str, ...]:
    gap, lost = row.difference, ""
    if row.diverged:
        lost = f"{count(row.diverged, 'training')} diverged"
    words = [] if gap is None else [signed(found, gap.mean), band(found, gap), row.verdict]
    return (
        f"{row.recipe}, {row.lr:g}",
        shown(found, row),
        " ".join(word for word in (*words, lost) if word),
        f"{row.overhead[0]:.2f}x",
    )


def _single(found: Trainings, row: Row, files: "Files") -> list[tuple[str, ...]]:
    why = "over seeds" if len(found.seeds) > 1 else "over examples"
    lines: list[tuple[str, ...]] = [
        (f"test {found.measure}", shown(found, row), why),
        ("test loss", with_error(row.loss, row.loss_stderr), why),
        ("rate", f"{row.lr:g}", f"{row.final_rate:.3g} at the last of {found.steps:,} updates"),
    ]
    if row.decisions:
        share = "" if math.isnan(row.steering) else f"{percent(row.steering)} of the CPU time"
        lines.append(("decisions", str(row.decisions), share))
        lines += [("", f"{times:,}", reason) for reason, times in _reasons(found, row).items()]
    if row.diverged:
        lines.append(("diverged", count(row.diverged, "training"), "its loss is not finite"))
    lines += [(f"weights, {name}", str(path), "") for name, path in files.weights.items()]
    return [*lines, ("report", str(files.report), "")]


def _reasons(found: Trainings, row: Row) -> dict[str, int]:
    return dict(Counter(record.reason for record in found.log(row.recipe)).most_common())
