"""The two maps of a comparison side by side: which basin is which, and how far they moved."""

import math

from lossatlas.plots.interactive_pairs import diagrams_figure, fate_figure, fate_name
from lossatlas.plots.matched import BasinMatch, fates, shared_scale
from lossatlas.report.contents import Number, Picture, Section, Tile
from lossatlas.report.readings_comparison import (
    View,
    certain_fates,
    read_basins,
    read_distances,
    read_walls,
)
from lossatlas.report.readings_map import lowest_index
from lossatlas.report.sections.loss_map import DIFFERENCE
from lossatlas.report.sections.numbers import COUNT, MAP_COUNT, mapped
from lossatlas.result import Estimate, Figure, Reference, Table
from lossatlas.text import count, number, with_error

_REFERENCES = (
    Reference(
        "map on filter-normalized random directions",
        "H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein. Visualizing the Loss Landscape of "
        "Neural Nets. NeurIPS 2018.",
        "https://arxiv.org/abs/1712.09913",
    ),
    Reference(
        "which basin is which",
        "N. Stucki, J. C. Paetzold, S. Shit, B. Menze, U. Bauer. Topologically Faithful Image "
        "Segmentation via Induced Matching of Persistence Barcodes. ICML 2023.",
        "https://arxiv.org/abs/2211.15272",
    ),
    Reference(
        "bottleneck distance and its error",
        "D. Cohen-Steiner, H. Edelsbrunner, J. Harer. Stability of Persistence Diagrams. "
        "Discrete Comput. Geom. 37 (2007).",
        "https://doi.org/10.1007/s00454-006-1276-5",
    ),
)


def maps_section(view: View) -> Section:
    """The two maps of a comparison."""
    one, two = view.names
    sides = fates(view.lands, view.trees, view.found.pairs)
    return Section(
        key="maps",
        title="The ground around each",
        lead=(
            f"Both maps run along the same directions, scaled to the filters of {one}, over "
            f"the same range and on one color scale; {one} and {two} lie at zero. A basin has "
            "the same number on both maps where it ends at the same pass of the two laid over "
            "each other (the lower of both, Betti matching)."
        ),
        sentences=(*read_basins(view), *read_distances(view), *read_walls(view)),
        tiles=_tiles(view),
        figures=_pictures(view, sides),
        tables=_table(view, sides),
        estimates=_numbers(view),
        references=_REFERENCES,
    )


Sides = tuple[tuple[BasinMatch, BasinMatch], tuple[BasinMatch, BasinMatch]]


def _tiles(view: View) -> tuple[Tile, ...]:
    found = view.found
    bound = view.depth_bound
    error = f"± {number(bound, 2)} (95 %)" if bound > 0 else "no error known"
    fate = f"{len(found.gone):,} gone, {len(found.new):,} new"
    return (
        Tile("basins in both", f"{len(found.pairs):,}", fate),
        Tile("bottleneck distance", number(found.bottleneck, 3), error),
    )


def _pictures(view: View, sides: Sides) -> tuple[Figure, ...]:
    scale = shared_scale(view.lands)
    log = " Colors are logarithmic above the lowest loss." if scale.is_log else ""
    pictures = []
    for name, land, marks in zip(view.names, view.lands, sides, strict=True):
        walls = "" if land.finite.all() else " Hatched: the loss is not finite there."
        low, high = number(float(land.values[land.finite].min()), 3), number(land.range, 3)
        alone = f"{marks[1].total:,} {marks[1].kind}"
        pictures.append(
            Picture(
                f"Around {name}",
                fate_figure(land, marks, scale),
                f"{count(marks[0].total, 'basin')} in both, {alone}. Pale marks are within "
                f"the error.{log}{walls}",
                f"Contour map of the loss around {name}: lowest {low}, range {high}; "
                f"{marks[0].total} matched basins, {alone}.",
            )
        )
    one, two = view.found.diagrams
    diagram = Picture(
        "Both persistence diagrams",
        diagrams_figure(one, two, scale=scale, names=view.names),
        "One mark a basin. A line joins it with its partner by depth, or with the diagonal "
        "where it has none; within the shaded band a basin may be an effect of errors.",
        f"Persistence diagrams of both maps; bottleneck distance "
        f"{number(view.found.bottleneck, 3)}.",
        wide=True,
    )
    return (*pictures, diagram)


def _table(view: View, sides: Sides) -> tuple[Table, ...]:
    one, two = view.names
    (both, gone), (both_too, new) = sides
    rows = [
        (label, fate_name(both, k), *_cells(both, k), *_cells(both_too, k))
        for k, label in enumerate(both.labels)
    ]
    none = ("\N{EN DASH}",) * 3
    rows += [(label, "gone", *_cells(gone, k), *none) for k, label in enumerate(gone.labels)]
    rows += [(label, "new", *none, *_cells(new, k)) for k, label in enumerate(new.labels)]
    total = both.total + gone.total + new.total
    title = "Basins" + (f" ({len(rows)} longest-lived of {total:,})" * (len(rows) < total))
    head = ["basin", "fate"]
    for name in (one, two):
        head += [f"{name}: at", f"{name}: loss ± standard error", f"{name}: lasts"]
    return (Table(title, tuple(head), tuple(rows)),)


def _cells(fate: BasinMatch, k: int) -> tuple[str, str, str]:
    place = ", ".join(number(float(c), 3) for c in fate.points[k])
    value = with_error(float(fate.values[k]), float(fate.stderr[k]))
    lasts = number(float(fate.persistences[k]), 3)
    return place, value, lasts if fate.certain[k] else f"{lasts} (uncertain)"


def _numbers(view: View) -> tuple[Estimate, ...]:
    found = view.found
    return (
        *_distances(view),
        Number("basins in both", len(found.pairs), why=MAP_COUNT, meaning="Betti matching"),
        Number(
            "of these elsewhere",
            view.apart,
            why=MAP_COUNT,
            meaning="their partner lies in a basin of another place",
        ),
        Number("basins gone", len(found.gone), why=MAP_COUNT, meaning="of the first map"),
        Number("basins new", len(found.new), why=MAP_COUNT, meaning="of the second map"),
        *_certain(view),
        *(row for k in (0, 1) for row in _ground(view, k)),
        Number("evaluations", _evaluations(view), why=COUNT, meaning="both maps and the line"),
        Number("wall time", found.seconds, why="a clock, read once", unit="s"),
    )


def _distances(view: View) -> tuple[Estimate, ...]:
    found, bound = view.found, view.depth_bound
    why = "the maps have no errors to carry over"
    if bound > 0:
        why = f"right to within {number(bound, 2)} (95 % for each map)"
    if not math.isfinite(found.bottleneck):
        why = "walls part the maps into different numbers of pieces"
    sums = why if not bound else "a sum over all basins, small ones too: no bound is known"
    return (
        Number("bottleneck distance", found.bottleneck, why=why, meaning="of the basins"),
        Number("1-Wasserstein distance", found.wasserstein, why=sums, meaning="of the basins"),
    )


def _certain(view: View) -> tuple[Estimate, ...]:
    if not view.judged:
        return ()
    why = "at least so many of them are basins of their own map (95 %)"
    return tuple(
        Number(f"certain basins among the {kind}", amount, why=why)
        for kind, amount in certain_fates(view).items()
    )


def _ground(view: View, k: int) -> tuple[Estimate, ...]:
    land, tree, name = view.lands[k], view.trees[k], view.names[k]
    bound = "itself a bound (95 %, all points at once)"
    smad = "the map has no error to carry over"
    if tree.threshold > 0:
        smad = f"each bar is right to within {number(tree.threshold, 2)} (95 %)"
    rows = [
        mapped(land, f"lowest loss around {name}", lowest_index(land)),
        Number(f"range around {name}", land.range, why=DIFFERENCE),
        Number(f"minima around {name}", len(tree), why=MAP_COUNT),
        Number(
            f"certainty threshold around {name}",
            tree.threshold,
            why=tree.why_unknown or bound,
        ),
        Number(f"SMAD around {name}", tree.smad(), why=smad, meaning="mean rise to a pass"),
        Number(
            f"points without a finite loss around {name}", int((~land.finite).sum()), why=COUNT
        ),
    ]
    if not land.computed.all():
        why = f"itself an error: {land.held_out:,} points, each predicted from the others"
        rows.append(
            Number(f"interpolation error around {name}", land.interpolation_error, why=why)
        )
    return tuple(rows)


def _evaluations(view: View) -> int:
    return sum(land.evaluations for land in (*view.lands, view.found.line))
