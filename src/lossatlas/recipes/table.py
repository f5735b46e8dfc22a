"""The table of recipes compared: rate, scores, differences, intervals and verdicts."""

import math
import re
from collections.abc import Sequence

from lossatlas.recipes.differences import effect_size, verdict
from lossatlas.recipes.summary import RecipeSummary
from lossatlas.result import Estimate, Table
from lossatlas.text import MINUS, number, with_error

# Seeds from which an effect size is shown.
_MIN_SEEDS = 3
# Columns of the whole table that a short one leaves out.
_MINOR = ("test loss", "effect", "difference over all rates")


def recipe_table(rows: Sequence[RecipeSummary], rates: int, seeds: int) -> Table:
    """One row a recipe; columns that would be empty are left out."""
    measure = rows[0].measure
    head = (
        "recipe", "rate", f"test {measure}", *(() if measure == "loss" else ("test loss",)),
        "difference", "95 % interval", "effect", "verdict", "difference over all rates",
    )  # fmt: skip
    # One recipe has no differences, one rate has none over all rates, one seed no intervals,
    # and the effect of two says next to nothing.
    left_out: set[str] = set()
    left_out |= set(head[-5:]) if len(rows) == 1 else set()
    left_out |= {head[-1]} if rates == 1 else set()
    left_out |= {"95 % interval", "verdict"} if seeds == 1 else set()
    left_out |= {"effect"} if seeds < _MIN_SEEDS else set()
    table = Table("Recipes", head, tuple(_cells(row) for row in rows))
    return _without(table, left_out)


def short_table(table: Table) -> Table:
    """The columns of a table of recipes that answer which one is better."""
    return _without(table, set(_MINOR) - {table.head[2]})


def _without(table: Table, names: set[str]) -> Table:
    keep = [k for k, name in enumerate(table.head) if name not in names]
    rows = tuple(tuple(row[k] for k in keep) for row in table.rows)
    return Table(table.title, tuple(table.head[k] for k in keep), rows)


def _cells(row: RecipeSummary) -> tuple[str, ...]:
    gap, untuned = row.difference, row.untuned
    effect = math.nan if gap is None else effect_size(gap)
    loss = with_error(row.loss.value, row.loss.stderr)
    return (
        row.recipe,
        f"{row.lr:g}",
        row.score_text,
        *(() if row.measure == "loss" else (loss,)),
        "" if gap is None else _with_minus(row.signed(gap.value)),
        _with_minus(row.interval_text(gap)),
        number(effect, 2) if math.isfinite(effect) else "",
        row.verdict,
        "" if untuned is None else _signed(row, untuned),
    )


def _signed(row: RecipeSummary, gap: Estimate) -> str:
    return f"{_with_minus(row.signed(gap.value))} {verdict(gap)}"


def _with_minus(text: str) -> str:
    # The hyphen of an exponent stays, as elsewhere.
    return re.sub("(?<!e)-", MINUS, text)
