"""The page of runs compared: scores, the way they went, decisions, cost."""

import math
from collections import Counter
from collections.abc import Iterable

from lossatlas.recipes import RecipeSummary, Runs, verdict
from lossatlas.report.contents import Card, Page, Section, Tile
from lossatlas.result import Figure, Table
from lossatlas.text import count, cut_off, number, percent

# Recipes whose scores stand at the head of the page; the table has all.
_MAX_TILES = 8
_AT_CHOSEN_RATES = "Counted at the rate that validation chose for each recipe."
_TOLD_APART = ("higher", "lower")


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
    against = (
        Card(
            f"{cut_off(row.recipe, 32)} against {first}?",
            row.verdict,
            mark="sure" if _is_told_apart(row) else "",
            sentences=(_difference(row, result.measure),),
        )
        for row in rows
    )
    return (*against, _levels(result), *_without_tuning(result), _finiteness(result))


def _levels(result: Runs) -> Card:
    texts = {row.score.value: row.score_text for row in result.summaries()}
    finite = [value for value in texts if math.isfinite(value)]
    ends = [*dict.fromkeys((texts[min(finite)], texts[max(finite)]))] if finite else []
    question = f"Which test {result.measure} do they reach?"
    if len(result.recipes) == 1:
        question = f"Which test {result.measure} does it reach?"
    sentences = result.score_sentences()
    return Card(question, " to ".join(ends) or "none is finite", sentences=sentences)


def _without_tuning(result: Runs) -> tuple[Card, ...]:
    gaps = {row.recipe: row.untuned for row in result.summaries() if row.untuned}
    if not gaps:
        return ()
    verdicts = {name: verdict(gap) for name, gap in gaps.items() if gap.samples > 1}
    told = [f"{name} {word}" for name, word in verdicts.items() if word in _TOLD_APART]
    answer = ", ".join(told) or (
        "all indistinguishable" if verdicts else "one seed says nothing"
    )
    question = "And without tuning the rate?"
    return (Card(question, cut_off(answer, 80), sentences=result.untuned_sentences()),)


def _finiteness(result: Runs) -> Card:
    diverged = sum(row.diverged for row in result.summaries())
    total = len(result.recipes) * len(result.seeds)
    answer = f"no: {diverged:,} of {total:,} did not" if diverged else f"yes, all {total:,}"
    return Card(
        "Did every training stay finite?",
        answer,
        mark="alarm" if diverged else "sure",
        sentences=(*result.divergence_sentences(), _AT_CHOSEN_RATES),
    )


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
        tables=result.tables(),
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
            for row in rows[:_MAX_TILES]
        ),
        Tile("seeds", str(len(result.seeds)), f"{result.steps:,} updates each"),
    )


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
