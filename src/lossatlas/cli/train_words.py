"""What `lossatlas train` prints: a JSON object, or a table."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from lossatlas.recipes import RecipeSummary, Runs, verdict
from lossatlas.text import count, percent, with_error

if TYPE_CHECKING:
    from lossatlas.cli.train_job import Files


def summary(found: Runs, files: "Files") -> dict[str, Any]:
    """What `--json` prints."""
    made = found.summaries()
    return {
        "title": files.title,
        "verdict": found.headline,
        "measure": f"test {found.measure}",
        "steps": found.steps,
        "seeds": len(found.seeds),
        "rates": list(found.rates),
        "recipes": [row.to_dict() | {"reasons": _reasons(found, row)} for row in made],
        "results": str(files.results),
        "weights": {name: str(path) for name, path in files.weights.items()},
        "report": str(files.report),
    }


def table(found: Runs, files: "Files") -> list[tuple[str, ...]]:
    """What a person is shown.

    Args:
        found: the trainings.
        files: where everything lies.

    Returns:
        RecipeSummarys of cells.
    """
    made = found.summaries()
    return _single(found, made[0], files) if len(made) == 1 else _several(found, made, files)


def _several(
    found: Runs, made: tuple[RecipeSummary, ...], files: "Files"
) -> list[tuple[str, ...]]:
    unit = "points" if found.measure == "accuracy" else "loss"
    against = f"{unit} above {made[0].recipe} [95 %]"
    head = ("recipe, rate", f"test {found.measure}", against, "CPU time")
    lines = [head, *(_line(row) for row in made)]
    for row in made:
        if row.untuned is not None:
            gap = f"{row.signed(row.untuned.value)} {row.interval_text(row.untuned)}"
            lines.append((f"{row.recipe}, all rates", "", f"{gap} {verdict(row.untuned)}", ""))
    return [*lines, ("report", str(files.report), "", "")]


def _line(row: RecipeSummary) -> tuple[str, ...]:
    gap, lost = row.difference, ""
    if row.diverged:
        lost = f"{count(row.diverged, 'training')} diverged"
    words = [] if gap is None else [row.signed(gap.value), row.interval_text(gap), row.verdict]
    return (
        f"{row.recipe}, {row.lr:g}",
        row.score_text,
        " ".join(word for word in (*words, lost) if word),
        f"{row.overhead[0]:.2f}x",
    )


def _single(found: Runs, row: RecipeSummary, files: "Files") -> list[tuple[str, ...]]:
    why = "over seeds" if len(found.seeds) > 1 else "over examples"
    lines: list[tuple[str, ...]] = [
        (f"test {found.measure}", row.score_text, why),
        ("test loss", with_error(row.loss.value, row.loss.stderr), why),
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


def _reasons(found: Runs, row: RecipeSummary) -> dict[str, int]:
    return dict(Counter(record.reason for record in found.log(row.recipe)).most_common())
