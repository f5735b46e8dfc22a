"""The page of runs compared: scores, the way they went, decisions, cost."""

import math
from collections import Counter
from collections.abc import Iterable

from lossatlas.recipes import RecipeSummary, Runs, effect_size, verdict
from lossatlas.report.contents import Card, Page, Section, Tile
from lossatlas.result import Estimate, Figure, Table
from lossatlas.text import MINUS, count, cut_off, number, percent, with_error

# Seeds from which an effect size is shown.
_MIN_SEEDS = 3


def runs_page(found: Runs) -> Page:
    """What the page of runs says and shows."""
    pictures = found.figures()
    figures = {figure.name: figure for figure in pictures}
    decisions = [f for name, f in figures.items() if name.startswith("decisions")]
    # Differences first: a mean alone names no winner.
    chief = [figures[n] for n in ("differences", "scores", "loss", "rate") if n in figures]
    rest = tuple(f for f in pictures if f not in chief and f not in decisions)
    sections = [
        _scores(found),
        *([Section("course", "How it went", figures=rest)] if rest else []),
        *([_decisions(found, decisions)] if decisions else []),
        _cost(found),
    ]
    title = str(found.provenance.settings.get("title", "Recipes compared"))
    return Page(
        kind="Comparison of trainings" if len(found.recipes) > 1 else "A training",
        title=title,
        headline=found.headline(),
        questions=_questions(found),
        hero=tuple(chief),
        sections=tuple(sections),
        notes=found.notes,
        provenance=found.provenance,
    )


def _questions(found: Runs) -> tuple[Card, ...]:
    # Each recipe against the first, seed by seed; no winner where none is told apart.
    first = cut_off(found.names[0], 24)
    rows = [row for row in found.summaries() if row.difference is not None]
    asked = [
        Card(
            f"{cut_off(row.recipe, 32)} against {first}?",
            row.verdict,
            mark="sure" if _is_told_apart(row) else "",
            sentences=(_difference(row, found.measure),),
        )
        for row in rows
    ]
    return (*asked, Card("What else do the runs say?", "", sentences=found.sentences()))


def _is_told_apart(row: RecipeSummary) -> bool:
    gap = row.difference
    if gap is None or gap.samples < 2:
        return False
    low, high = gap.interval()
    return low > 0 or high < 0


def _difference(row: RecipeSummary, measure: str) -> str:
    gap = row.difference
    assert gap is not None
    interval = row.interval_text(gap)
    tail = f", 95 % interval {interval}" if interval else "; one seed gives no interval"
    points = " points" if measure == "accuracy" else ""
    return f"Difference of the test {measure}: {row.signed(gap.value)}{points}{tail}."


def _scores(found: Runs) -> Section:
    each = " each" if len(found.recipes) > 1 else ""
    return Section(
        key="scores",
        title="Scores",
        lead=(
            f"{count(len(found.recipes), 'recipe')}, {count(len(found.seeds), 'seed')}{each}, "
            f"{found.steps:,} updates. The same seed gives the same first weights and the same "
            "order of the data, so differences are taken seed by seed."
        ),
        tiles=_tiles(found),
        sentences=_few_seeds(found),
        tables=(_table(found),),
        estimates=found.estimates(),
        references=found.references,
        first=True,
    )


# Said beside the table, where its wide or empty intervals are seen.
def _few_seeds(found: Runs) -> tuple[str, ...]:
    return tuple(note for note in found.notes if " seed" in note.lower())


def _tiles(found: Runs) -> tuple[Tile, ...]:
    rows = found.summaries()
    return (
        *(
            Tile(cut_off(row.recipe, 24), row.score_text, f"test {found.measure}")
            for row in rows[:4]
        ),
        Tile("seeds", str(len(found.seeds)), f"{found.steps:,} updates each"),
    )


def _table(found: Runs) -> Table:
    head = (
        "recipe", "rate", f"test {found.measure}", "test loss", "difference", "95 % interval",
        "effect", "verdict", "difference over all rates",
    )  # fmt: skip
    # One recipe has no differences, one rate has none over all rates, one seed no intervals,
    # and the effect of two says next to nothing.
    left_out: set[str] = set()
    left_out |= set(head[4:]) if len(found.recipes) == 1 else set()
    left_out |= set(head[8:]) if len(found.rates) == 1 else set()
    left_out |= {"95 % interval", "verdict"} if len(found.seeds) == 1 else set()
    left_out |= {"effect"} if len(found.seeds) < _MIN_SEEDS else set()
    keep = [k for k, name in enumerate(head) if name not in left_out]
    rows = tuple(tuple(_cells(row)[k] for k in keep) for row in found.summaries())
    return Table("Recipes", tuple(head[k] for k in keep), rows)


def _cells(row: RecipeSummary) -> tuple[str, ...]:
    gap, untuned = row.difference, row.untuned
    effect = math.nan if gap is None else effect_size(gap)
    return (
        row.recipe,
        f"{row.lr:g}",
        row.score_text,
        with_error(row.loss.value, row.loss.stderr),
        "" if gap is None else row.signed(gap.value).replace("-", MINUS),
        row.interval_text(gap).replace("-", MINUS),
        number(effect, 2) if math.isfinite(effect) else "",
        row.verdict,
        "" if untuned is None else _signed(row, untuned),
    )


def _signed(row: RecipeSummary, gap: Estimate) -> str:
    return f"{row.signed(gap.value).replace('-', MINUS)} {verdict(gap)}"


def _decisions(found: Runs, figures: Iterable[Figure]) -> Section:
    rows = [
        (row.recipe, reason, f"{times:,}")
        for row in found.summaries()
        if row.decisions
        for reason, times in Counter(r.reason for r in found.log(row.recipe)).most_common(12)
    ]
    return Section(
        key="decisions",
        title="Decisions",
        lead="What the controllers decided, and why. The whole log is in the file of results.",
        figures=tuple(figures),
        tables=(Table("Reasons, seed 0", ("recipe", "reason", "times"), tuple(rows)),),
    )


def _cost(found: Runs) -> Section:
    first = cut_off(found.names[0], 30)
    head = (
        "recipe",
        f"CPU time over {first}",
        "95 % interval",
        "in the controller",
        "decisions",
    )
    rows = []
    for row in found.summaries():
        ratio, lower, upper = (number(value, 3) for value in row.overhead)
        known = math.isfinite(row.overhead[1])
        share = "inside the step" if math.isnan(row.steering) else percent(row.steering)
        interval = f"[{lower}, {upper}]" if known else "one seed has none"
        rows.append((row.recipe, ratio, interval, share, str(row.decisions)))
    return Section(
        key="cost",
        title="What it costs",
        lead="CPU time of training on one thread, measuring left out.",
        tables=(Table("CPU time", head, tuple(rows)),),
    )
