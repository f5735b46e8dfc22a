"""The page of trainings side by side: scores, the way they went, decisions, cost."""

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots.decisions import decisions_figure
from lossatlas.plots.trainings import intervals_figure, traces_figure
from lossatlas.report.contents import Number, Page, Picture, Section, Tile
from lossatlas.report.readings_trainings import (
    band,
    headline,
    notes_on,
    reading,
    shown,
    signed,
)
from lossatlas.result import Estimate, Figure, Table
from lossatlas.studies.compare.summary import Row, interval, rows
from lossatlas.studies.compare.trainings import Trainings
from lossatlas.text import count, cut_off, number, percent, with_error

_MOST_LOGS = 6
_PAIRS = "Dots are seeds, the mark is their mean with its 95 % interval."


def trainings_page(found: Trainings) -> Page:
    """What the page of trainings says and shows."""
    table = rows(found)
    sections = [_scores(found, table), _course(found)]
    if any(row.decisions for row in table):
        sections.append(_decisions(found, table))
    sections.append(_cost(found, table))
    title = str(found.provenance.settings.get("title", "Trainings side by side"))
    return Page(
        kind="Comparison of trainings" if len(table) > 1 else "A training",
        title=title,
        headline=headline(found, table),
        reading=tuple(reading(found, table)),
        sections=tuple(sections),
        notes=notes_on(found),
        provenance=found.provenance,
    )


def _scores(found: Trainings, table: list[Row]) -> Section:
    what, percents = f"test {found.measure}", found.measure == "accuracy"
    factor, unit = (100, " (%)") if percents else (1, "")
    values = [factor * found.tuned(row.recipe, what) for row in table]
    names = [row.recipe for row in table]
    pictures = [
        Picture(
            f"{what.capitalize()} by recipe",
            intervals_figure(names, [interval(v) for v in values], values, f"{what}{unit}"),
            f"Each recipe at the rate that validation chose. {_PAIRS}",
            f"{what} of each recipe with its interval.",
            wide=len(table) == 1,
        )
    ]
    if len(table) > 1:
        pictures.append(_differences(found, table, factor))
    return Section(
        key="scores",
        title="Scores",
        lead=(
            f"{count(len(table), 'recipe')}, {count(len(found.seeds), 'seed')} each, "
            f"{found.steps:,} updates. The same seed gives the same first weights and the same "
            "order of the data, so differences are taken seed by seed."
        ),
        tiles=tuple(_tiles(found, table)),
        figures=tuple(pictures),
        tables=(_table(found, table),),
        estimates=tuple(n for row in table for n in _numbers(found, row)),
    )


def _differences(found: Trainings, table: list[Row], factor: int) -> Figure:
    name = f"test {found.measure}"
    base = found.tuned(table[0].recipe, name)
    gaps = [factor * (found.tuned(row.recipe, name) - base) for row in table[1:]]
    finite = [gap[np.isfinite(gap)] for gap in gaps]
    unit = "points" if factor == 100 else "loss"
    title = f"difference to {cut_off(table[0].recipe, 40)} ({unit})"
    bands = [interval(gap) if len(gap) else (math.nan, math.nan, math.nan) for gap in finite]
    return Picture(
        f"Against {cut_off(table[0].recipe, 40)}",
        intervals_figure([r.recipe for r in table[1:]], bands, finite, title, zero=True),
        f"Paired by seed. {_PAIRS} An interval that holds zero tells nothing apart.",
        "Paired difference of each recipe to the first one.",
    )


def _table(found: Trainings, table: list[Row]) -> Table:
    head = ("recipe", "rate", f"test {found.measure}", "difference", "95 % interval", "effect")
    cells = []
    for row in table:
        gap = row.difference
        effect = math.nan if gap is None else gap.effect
        cells.append(
            (
                row.recipe,
                f"{row.lr:g}",
                shown(found, row),
                "" if gap is None else signed(found, gap.mean),
                band(found, gap),
                number(effect, 2) if math.isfinite(effect) else "",
                row.verdict,
                with_error(row.loss, row.loss_stderr),
                "" if row.untuned is None else signed(found, row.untuned.mean),
            )
        )
    rest = ("verdict", "test loss", "difference over all rates")
    keep = 9 if len(found.rates) > 1 else 8
    return Table("Recipes", (*head, *rest)[:keep], tuple(row[:keep] for row in cells))


def _course(found: Trainings) -> Section:
    names = list(found.recipes)
    losses = [_stacked(found, name, "losses") for name in names]
    rates = [_stacked(found, name, "rates") for name in names]
    return Section(
        key="course",
        title="How it went",
        lead="Lines are means over the seeds, bands hold all of them.",
        figures=(
            Picture(
                "Training loss",
                traces_figure(names, losses, "training loss", smooth=True, log=True),
                "Loss of the batches as they came, penalties included, averaged over sixtieths "
                "of the training.",
                "Training loss over the updates.",
            ),
            Picture(
                "Learning rate",
                traces_figure(names, rates, "learning rate", log=True),
                "Of the first parameter group, at the rate that validation chose.",
                "Learning rate over the updates.",
            ),
        ),
    )


def _decisions(found: Trainings, table: list[Row]) -> Section:
    steered = [row for row in table if row.decisions]
    pictures = [
        Picture(
            cut_off(row.recipe, 60),
            decisions_figure(found.log(row.recipe)),
            f"Seed 0, rate {row.lr:g}: {count(row.decisions, 'decision')}. Point at a mark for "
            "the reading and the reason.",
            f"Scale of the rate of {row.recipe} over the updates.",
        )
        for row in steered[:_MOST_LOGS]
    ]
    reasons = [
        (row.recipe, reason, f"{times:,}")
        for row in steered
        for reason, times in Counter(r.reason for r in found.log(row.recipe)).most_common(12)
    ]
    return Section(
        key="decisions",
        title="Decisions",
        lead="What the controllers decided, and why. The whole log is in the file of results.",
        figures=tuple(pictures),
        tables=(Table("Reasons, seed 0", ("recipe", "reason", "times"), tuple(reasons)),),
    )


def _cost(found: Trainings, table: list[Row]) -> Section:
    cells = tuple(
        (
            row.recipe,
            f"{number(row.overhead[0], 3)}",
            f"[{number(row.overhead[1], 3)}, {number(row.overhead[2], 3)}]"
            if math.isfinite(row.overhead[1])
            else "one seed has none",
            "inside the step" if math.isnan(row.steering) else percent(row.steering),
            str(row.decisions),
        )
        for row in table
    )
    head = (
        "recipe",
        f"CPU time over {cut_off(table[0].recipe, 30)}",
        "95 % interval",
        "of it in the controller",
        "decisions",
    )
    return Section(
        key="cost",
        title="What it costs",
        lead="CPU time of training on one thread, measuring left out.",
        tables=(Table("CPU time", head, cells),),
    )


def _tiles(found: Trainings, table: list[Row]) -> list[Tile]:
    sign = 1 if found.measure == "accuracy" else -1
    known = [row for row in table if math.isfinite(row.score)]
    best = max(known, key=lambda row: sign * row.score, default=table[0])
    return [
        Tile("highest mean" if sign > 0 else "lowest mean", cut_off(best.recipe, 40)),
        Tile(f"its test {found.measure}", shown(found, best)),
        Tile("seeds", str(len(found.seeds)), f"{found.steps:,} updates each"),
    ]


def _numbers(found: Trainings, row: Row) -> list[Estimate]:
    per = "" if len(found.seeds) > 1 else "one seed; the error is over the examples"
    why = per or "some trainings diverged"
    made = [
        Number(
            f"{row.recipe}: {name}",
            value,
            error,
            why="" if math.isfinite(error) else why,
            meaning=per or f"mean over the seeds, rate {row.lr:g}",
        )
        for name, value, error in (
            (f"test {found.measure}", row.score, row.stderr),
            ("test loss", row.loss, row.loss_stderr),
        )
    ]
    return made if found.measure != "loss" else made[:1]


def _stacked(found: Trainings, recipe: str, name: str) -> NDArray[np.float64]:
    lr = found.best_rate(recipe)
    stacked = np.full((len(found.seeds), found.steps), np.nan)
    for line, seed in zip(stacked, found.seeds, strict=True):
        trace = getattr(found.training(recipe, lr, seed), name)
        line[: len(trace)] = trace
    return stacked
