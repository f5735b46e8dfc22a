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


def runs_page(result: Runs) -> Page:
    """What the page of runs says and shows."""
    pictures = result.figures()
    figures = {figure.name: figure for figure in pictures}
    decisions = [f for name, f in figures.items() if name.startswith("decisions")]
    # Differences first: a mean alone names no winner.
    chief = [figures[n] for n in ("differences", "scores", "loss", "rate") if n in figures]
    rest = tuple(f for f in pictures if f not in chief and f not in decisions)
    sections = [
        _scores(result),
        *([Section("course", "How it went", figures=rest)] if rest else []),
        *([_decisions(result, decisions)] if decisions else []),
        _cost(result),
    ]
    title = str(result.provenance.settings.get("title", "Recipes compared"))
    return Page(
        kind="Comparison of trainings" if len(result.recipes) > 1 else "A training",
        title=title,
        headline=result.headline(),
        questions=_questions(result),
        hero=tuple(chief),
        sections=tuple(sections),
        notes=result.notes,
        provenance=result.provenance,
    )


def _questions(result: Runs) -> tuple[Card, ...]:
    # Each recipe against the first, seed by seed; no winner where all are indistinguishable.
    first = cut_off(result.names[0], 24)
    rows = [row for row in result.summaries() if row.difference is not None]
    asked = [
        Card(
            f"{cut_off(row.recipe, 32)} against {first}?",
            row.verdict,
            mark="sure" if _is_told_apart(row) else "",
            sentences=(_difference(row, result.measure),),
        )
        for row in rows
    ]
    return (*asked, Card("What else do the runs say?", "", sentences=result.sentences()))


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


def _scores(result: Runs) -> Section:
    each = " each" if len(result.recipes) > 1 else ""
    return Section(
        key="scores",
        title="Scores",
        lead=(
            f"{count(len(result.recipes), 'recipe')}, "
            f"{count(len(result.seeds), 'seed')}{each}, {result.steps:,} updates. "
            "The same seed gives the same first weights and the same order of "
            "the data, so differences are taken seed by seed."
        ),
        tiles=_tiles(result),
        sentences=_few_seeds(result),
        tables=(_table(result),),
        estimates=result.estimates(),
        references=result.references,
        first=True,
    )


# Said beside the table, where its wide or empty intervals are seen.
def _few_seeds(result: Runs) -> tuple[str, ...]:
    return tuple(note for note in result.notes if " seed" in note.lower())


def _tiles(result: Runs) -> tuple[Tile, ...]:
    rows = result.summaries()
    return (
        *(
            Tile(cut_off(row.recipe, 24), row.score_text, f"test {result.measure}")
            for row in rows[:4]
        ),
        Tile("seeds", str(len(result.seeds)), f"{result.steps:,} updates each"),
    )


def _table(result: Runs) -> Table:
    head = (
        "recipe", "rate", f"test {result.measure}", "test loss", "difference", "95 % interval",
        "effect", "verdict", "difference over all rates",
    )  # fmt: skip
    # One recipe has no differences, one rate has none over all rates, one seed no intervals,
    # and the effect of two says next to nothing.
    left_out: set[str] = set()
    left_out |= set(head[4:]) if len(result.recipes) == 1 else set()
    left_out |= set(head[8:]) if len(result.rates) == 1 else set()
    left_out |= {"95 % interval", "verdict"} if len(result.seeds) == 1 else set()
    left_out |= {"effect"} if len(result.seeds) < _MIN_SEEDS else set()
    keep = [k for k, name in enumerate(head) if name not in left_out]
    rows = tuple(tuple(_cells(row)[k] for k in keep) for row in result.summaries())
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


def _decisions(result: Runs, figures: Iterable[Figure]) -> Section:
    rows = [
        (row.recipe, reason, f"{times:,}")
        for row in result.summaries()
        if row.decisions
        for reason, times in Counter(r.reason for r in result.log(row.recipe)).most_common(12)
    ]
    return Section(
        key="decisions",
        title="Decisions",
        lead="What the controllers decided, and why. The whole log is in the file of results.",
        figures=tuple(figures),
        tables=(Table("Reasons, seed 0", ("recipe", "reason", "times"), tuple(rows)),),
    )


def _cost(result: Runs) -> Section:
    first = cut_off(result.names[0], 30)
    head = (
        "recipe",
        f"CPU time over {first}",
        "95 % interval",
        "in the controller",
        "decisions",
    )
    rows = []
    for row in result.summaries():
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
