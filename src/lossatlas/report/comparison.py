"""The page of a comparison: two checkpoints, the line between and the maps around them."""

import math
from collections.abc import Mapping
from typing import Any

from lossatlas.plots.pairs import BasinMatch
from lossatlas.report.contents import Card, Page, Section, Tile, tile
from lossatlas.result import Figure, Reference, Table
from lossatlas.surveys import Comparison
from lossatlas.text import count, cut_off, number, with_error
from lossatlas.weights.excess import Excess
from lossatlas.weights.paired import EQUAL

_STATISTICS = Reference(
    "statistics of normalization layers estimated anew between two networks",
    "K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted "
    "Activations for Interpolation Repair. ICLR 2023.",
    "https://arxiv.org/abs/2211.08403",
)


def comparison_page(result: Comparison) -> Page:
    """What the page of a comparison says and shows."""
    settings: Mapping[str, Any] = result.provenance.settings
    pictures = result.figures()
    return Page(
        kind="Comparison of two checkpoints",
        title=str(settings.get("title") or "Two checkpoints"),
        headline=result.headline(),
        subtitle=result.files.removesuffix("."),
        questions=_questions(result),
        hero=pictures[:4],
        sections=(_line_section(result), _maps_section(result, pictures[4:])),
        notes=_notes(result),
        provenance=result.provenance,
    )


def _questions(result: Comparison) -> tuple[Card, ...]:
    lower, *line = result.line_sentences()
    barrier, bound, verdict = result.barrier, result.line_bound, result.verdict
    pairs = result.matching
    first, second = result.names
    alone = f"{len(pairs.gone):,} only near {first}, {len(pairs.new):,} only near {second}"
    shared = f"{count(len(pairs.pairs), 'matching basin')}; {alone}"
    return (
        Card("Which one has the lower loss?", *_lower_loss(result), sentences=(lower,)),
        Card(
            "Is there a barrier between them?",
            verdict.short(),
            mark="sure" if verdict.is_certain or (bound > 0 and barrier.value == 0) else "",
            sentences=tuple(line),
        ),
        Card("Do the basins of their maps match?", shared, sentences=result.match_sentences()),
        Card(
            "How far apart are their landscapes?",
            _distance_text(result),
            sentences=result.distance_sentences(),
        ),
    )


def _lower_loss(result: Comparison) -> tuple[str, str, str]:
    # Value, detail and mark of a card.
    gap, (first, second) = result.difference, result.names
    if gap is None or not math.isfinite(gap.stderr):
        return "no paired error", "", ""
    low, high = gap.interval()
    if gap.why_no_error == EQUAL:
        return EQUAL, "", "sure"
    if low <= 0 <= high:
        return f"indistinguishable ({with_error(gap.value, gap.stderr)})", "", ""
    return (
        f"{second if high < 0 else first}, by {with_error(abs(gap.value), gap.stderr)}",
        "",
        "sure",
    )


def _distance_text(result: Comparison) -> str:
    far, bound = result.bottleneck, result.depth_bound
    if not math.isfinite(far):
        return "not defined"
    if 0 < far <= bound:
        return f"within the error; at most {number(far + bound, 2)}"
    return number(far, 3)


def _line_section(result: Comparison) -> Section:
    first, second = result.names
    mode = result.line.provenance.settings.get("mode")
    recalibrated = mode == "recalibrated" or result.anew is not None
    return Section(
        key="line",
        title="The line between them",
        lead=(
            f"{result.files} The loss of the weights on the straight line from "
            f"{first} to {second}. A barrier is how far it rises above the straight "
            "line between the two losses."
        ).lstrip(),
        sentences=result.line_sentences(),
        tiles=_line_tiles(result),
        estimates=result.line_estimates(),
        references=(*result.references[:1], *((_STATISTICS,) if recalibrated else ())),
    )


def _line_tiles(result: Comparison) -> tuple[Tile, ...]:
    rows = {estimate.name: estimate for estimate in result.line_estimates()}
    ends = [f"loss at {name}" for name in result.names]
    gap = () if result.difference is None else (tile("B minus A, paired", result.difference),)
    return (
        *gap,
        *(tile(end, rows[end]) for end in ends),
        *_barrier_tiles(result),
    )


# What is measured with statistics that may not fit proves nothing about the networks.
def _barrier_tiles(result: Comparison) -> tuple[Tile, ...]:
    anew = result.anew
    if anew is None:
        return (_barrier_tile("barrier", result.excess),)
    first = tile("barrier", result.barrier, result.verdict.statistics)
    name = "barrier, statistics measured anew"
    if anew.excess is None:
        return first, Tile(name, "not known", anew.why_unknown)
    return first, _barrier_tile(name, anew.excess)


def _barrier_tile(label: str, excess: Excess) -> Tile:
    if excess.barrier.value == 0:
        why = "no point lies above the straight line between the losses"
        return Tile(label, "none seen", why)
    remark, certain = "", excess.is_certain
    if certain is not None and math.isfinite(excess.barrier.value):
        remark = ", certain" if certain else ", within the error"
        if certain and not excess.is_top_certain:
            remark = f", {excess.barrier_text} (95 %)"
    return tile(label, excess.barrier, remark)


def _maps_section(result: Comparison, pictures: tuple[Figure, ...]) -> Section:
    first, second = result.names
    return Section(
        key="maps",
        title="The maps around each",
        lead=(
            f"Both maps run along the same directions, scaled to the filters of {first}, over "
            f"the same range and on one color scale; {first} and {second} lie at zero. A basin "
            "has the same number on both maps where it ends at the same saddle of the lower of "
            "the two maps at each point (Betti matching)."
        ),
        sentences=result.basin_sentences(),
        figures=pictures,
        tables=_basins(result),
        estimates=result.basin_estimates(),
        references=result.references[1:],
    )


def _basins(result: Comparison) -> tuple[Table, ...]:
    (both, gone), (both_too, new) = result.matches()
    rows = [
        (label, both.kind_of(k), *_cells(both, k), *_cells(both_too, k))
        for k, label in enumerate(both.labels)
    ]
    none = ("\N{EN DASH}",) * 3
    rows += [(label, "gone", *_cells(gone, k), *none) for k, label in enumerate(gone.labels)]
    rows += [(label, "new", *none, *_cells(new, k)) for k, label in enumerate(new.labels)]
    total = both.total + gone.total + new.total
    title = "Basins" + (f" ({len(rows)} longest-lived of {total:,})" * (len(rows) < total))
    head = ["basin", "match"]
    for name in result.names:
        head += [f"{name}: at", f"{name}: loss ± standard error", f"{name}: lasts"]
    return (Table(title, tuple(head), tuple(rows)),)


def _cells(match: BasinMatch, k: int) -> tuple[str, str, str]:
    place = ", ".join(number(float(c), 3) for c in match.points[k])
    value = with_error(float(match.values[k]), float(match.stderr[k]))
    lasts = number(float(match.persistences[k]), 3)
    return place, value, lasts if match.certain[k] else f"{lasts} (uncertain)"


# What all three maps say is said once; the rest says of which map.
def _notes(result: Comparison) -> tuple[str, ...]:
    first, second = result.names
    parts = {
        "The line": result.line.notes,
        f"Around {first}": result.first.notes,
        f"Around {second}": result.second.notes,
    }
    common = [
        note for note in result.line.notes if all(note in part for part in parts.values())
    ]
    own = [
        f"{place}: {cut_off(note, 400)}"
        for place, notes in parts.items()
        for note in notes
        if note not in common
    ]
    return (*common, *own)
