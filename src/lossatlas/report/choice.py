"""The page of a choice between checkpoints: differences to the best come first."""

import math

from lossatlas.io import Provenance
from lossatlas.report.contents import Card, Page, Section, tile
from lossatlas.result import Table
from lossatlas.text import interval_text, number, with_error
from lossatlas.weights import Choice

_MAX_TILES = 2


def choice_page(found: Choice, title: str | None, provenance: Provenance | None) -> Page:
    """What the page of a choice says and shows."""
    return Page(
        kind="Choice of a checkpoint",
        title=title or "Which checkpoint?",
        headline=found.headline(),
        questions=_questions(found),
        hero=found.figures(),
        sections=(_section(found),),
        notes=found.notes,
        provenance=provenance or Provenance(),
    )


def _rivals(found: Choice) -> list[str]:
    return [name for name in found.equal if name != found.best]


def _questions(found: Choice) -> tuple[Card, ...]:
    rivals, level = _rivals(found), f"{100 * found.level:g} %"
    value = f"no: {len(rivals)} more may be the best ({level})" if rivals else f"yes ({level})"
    unknown = "not known: the error is unknown" if found.unknown_error else ""
    first = found.sentences()[:1]
    mark = "" if rivals else "sure"
    cards = [Card("Is one the best?", unknown or value, mark=mark, sentences=first)]
    if found.gains:
        sure = sum(gain.interval()[1] < 0 for gain in found.gains)
        value = f"{sure} of {len(found.gains)} means of neighbors beat both of them"
        mark = "sure" if sure else ""
        cards.append(Card("Does averaging neighbors help?", unknown or value, mark=mark))
    if found.flattest:
        cards.append(Card("Which of them is flattest?", found.flattest))
    return tuple(cards)


def _section(found: Choice) -> Section:
    closest = sorted(
        (gap.value, name, gap)
        for name, gap in zip(found.names, found.decisive, strict=True)
        if name != found.best
    )
    return Section(
        key="choice",
        title="Against the best",
        lead=(
            f"Each candidate minus {found.best}, on the same examples. The losses alone have "
            "larger errors, which these differences do not share."
        ),
        tiles=tuple(
            tile(f"{name} minus the best", gap) for _, name, gap in closest[:_MAX_TILES]
        ),
        tables=(*_table(found), *found.tables()),
        estimates=found.estimates(),
        references=found.cited(),
        first=True,
    )


def _table(found: Choice) -> tuple[Table, ...]:
    if len(found.names) == 1:
        return ()
    rows = []
    for name, loss, gap in zip(found.names, found.losses, found.decisive, strict=True):
        low, high = gap.interval()
        is_best = name == found.best
        interval = "unknown" if math.isnan(low) else interval_text(low, high)
        verdict = "may be the best" if name in found.equal else "worse"
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
