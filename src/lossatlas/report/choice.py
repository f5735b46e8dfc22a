"""The page of a choice between checkpoints: differences to the best come first."""

import math

from lossatlas.io import Provenance
from lossatlas.report.contents import Card, Page, Section, tile
from lossatlas.report.results import without_numbers
from lossatlas.result import Table
from lossatlas.text import interval_text, number, with_error
from lossatlas.weights import Choice

_MAX_TILES = 2


def choice_page(result: Choice, title: str | None, provenance: Provenance | None) -> Page:
    """What the page of a choice says and shows."""
    return Page(
        kind="Choice of a checkpoint",
        title=title or "Which checkpoint?",
        headline=without_numbers(result.headline()),
        questions=_questions(result),
        hero=result.figures(),
        sections=(_section(result),),
        notes=result.notes,
        provenance=provenance or Provenance(),
    )


def _rivals(result: Choice) -> list[str]:
    return [name for name in result.equal if name != result.best]


def _questions(result: Choice) -> tuple[Card, ...]:
    rivals, level = _rivals(result), f"{100 * result.level:g} %"
    value = f"no: {len(rivals)} more may be the best ({level})" if rivals else f"yes ({level})"
    unknown = "not known: the error is unknown" if result.unknown_error else ""
    first = (*result.sentences()[:1], *result.alternatives())
    mark = "" if rivals else "sure"
    cards = [Card("Is one the best?", unknown or value, mark=mark, sentences=first)]
    if result.gains:
        sure = sum(gain.interval()[1] < 0 for gain in result.gains)
        value = f"{sure} of {len(result.gains)} means of neighbors beat both of them"
        mark = "sure" if sure else ""
        cards.append(
            Card(
                "Does averaging neighbors help?",
                unknown or value,
                mark=mark,
                sentences=result.written(),
            )
        )
    if result.flattest:
        cards.append(Card("Which of them is flattest?", result.flattest))
    return tuple(cards)


def _section(result: Choice) -> Section:
    closest = sorted(
        (gap.value, name, gap)
        for name, gap in zip(result.names, result.decisive, strict=True)
        if name != result.best
    )
    return Section(
        key="choice",
        title="Against the best",
        lead=(
            f"Each candidate minus {result.best}, on the same examples. The losses alone have "
            "larger errors, which these differences do not share."
        ),
        tiles=tuple(
            tile(f"{name} minus the best", gap) for _, name, gap in closest[:_MAX_TILES]
        ),
        tables=(*_table(result), *result.tables()),
        estimates=result.estimates(),
        references=result.cited(),
        first=True,
    )


def _table(result: Choice) -> tuple[Table, ...]:
    if len(result.names) == 1:
        return ()
    rows = []
    for name, loss, gap in zip(result.names, result.losses, result.decisive, strict=True):
        low, high = gap.interval()
        is_best = name == result.best
        interval = "unknown" if math.isnan(low) else interval_text(low, high)
        verdict = "may be the best" if name in result.equal else "worse"
        rows.append(
            (
                name,
                "\N{EN DASH}" if is_best else number(gap.value, 3),
                "\N{EN DASH}" if is_best else interval,
                "lowest loss" if is_best else verdict,
                with_error(loss.value, loss.stderr),
            )
        )
    head = (
        "candidate",
        "loss minus the best",
        "interval for the verdict",
        "verdict",
        "loss",
    )
    return (Table("Candidates", head, tuple(rows)),)
