"""The topology of a map: which basins and ridges it has, and which of them are real."""

import numpy as np

from lossatlas.plots.interactive_diagrams import (
    barcode_figure,
    betti_figure,
    persistence_figure,
    profile_figure,
    tree_figure,
)
from lossatlas.plots.marks import marked_minima
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.report.contents import Number, Picture, Section, Tile
from lossatlas.report.readings_topology import (
    count_basins,
    read_basins,
    read_rarest,
    read_resolution,
    read_ridges,
)
from lossatlas.report.sections.numbers import MAP_COUNT
from lossatlas.result import Estimate, Figure, Reference, Table
from lossatlas.surveys import Survey
from lossatlas.text import count, number, with_error

_MOST_PASSES = 12
_REFERENCES = (
    Reference(
        "persistence",
        "H. Edelsbrunner, D. Letscher, A. Zomorodian. Topological Persistence and "
        "Simplification. Discrete Comput. Geom. 28 (2002).",
        "https://doi.org/10.1007/s00454-002-2885-2",
    ),
    Reference(
        "which bars are certain",
        "D. Cohen-Steiner, H. Edelsbrunner, J. Harer. Stability of Persistence Diagrams. "
        "Discrete Comput. Geom. 37 (2007).",
        "https://doi.org/10.1007/s00454-006-1276-5",
    ),
    Reference(
        "topological profile",
        "Visualizing Loss Functions as Topological Landscape Profiles. 2024.",
        "https://arxiv.org/abs/2411.12136",
    ),
    Reference(
        "saddle-minimum average distance (SMAD)",
        "J. Chen, N. Hadler, T. Xie et al. Landscaper: Understanding Loss Landscapes Through "
        "Multi-Dimensional Topological Analysis. 2026.",
        "https://arxiv.org/abs/2602.07135",
    ),
)


def topology_section(survey: Survey) -> Section:
    """Basins, passes and ridges of a survey.

    Args:
        survey: the survey.

    Returns:
        Diagram, barcode, merge tree, profile, Betti curves; the minima as a table.
    """
    readers = (read_basins, read_ridges, read_resolution, read_rarest)
    return Section(
        key="topology",
        title="Basins, passes and ridges",
        lead=_lead(survey),
        sentences=tuple(sentence for reader in readers for sentence in reader(survey)),
        tiles=_tiles(survey),
        figures=_pictures(survey),
        tables=_minima(survey),
        estimates=_numbers(survey),
        references=_REFERENCES,
    )


def _lead(survey: Survey) -> str:
    threshold = survey.tree.threshold
    if not count_basins(survey).judged:
        return (
            "Fill the map with water: a basin appears at its minimum and ends where it spills "
            "into a deeper one. Which are certain is unknown: "
            f"{survey.tree.why_unknown}."
        )
    return (
        "Fill the map with water: a basin appears at its minimum and ends where it spills into "
        "a deeper one. Basins and ridges that last longer than "
        f"{number(threshold, 2)} cannot come from the errors of the map (95 %, all points at "
        "once)."
    )


def _tiles(survey: Survey) -> tuple[Tile, ...]:
    found = count_basins(survey)
    sure = f"{found.certain} certain" if found.judged else "certainty unknown"
    smad = survey.tree.smad()
    return (
        Tile("basins", f"{found.total:,}", sure),
        Tile("SMAD", number(smad, 3), "mean rise from minimum to pass, all minima"),
    )


def _pictures(survey: Survey) -> tuple[Figure, ...]:
    scale = scale_of(survey.landscape.values)
    diagram, barcode, betti = _bars(survey, scale)
    return diagram, barcode, *_basins(survey, scale), betti


def _bars(survey: Survey, scale: Scale) -> tuple[Figure, ...]:
    diagram = survey.diagram
    sure = f", {int(diagram.certain.sum())} certain"
    sure = ", certainty unknown" if diagram.why_unknown else sure
    bars = count(len(diagram), "bar") + sure
    return (
        Picture(
            "Persistence diagram",
            persistence_figure(diagram, scale=scale),
            "One mark a basin or ridge. The higher above the diagonal, the longer it lasts; "
            "within the shaded band it may be an effect of the map's errors.",
            f"Persistence diagram: {bars}.",
        ),
        Picture(
            "Barcode",
            barcode_figure(diagram, scale=scale),
            "The same as bars, from birth to death, the longest first. Pale bars are within "
            "the error.",
            f"Barcode: {bars}.",
        ),
        Picture(
            "Betti curves",
            betti_figure(diagram, scale=scale),
            "How many basins and ridges exist at each level of the loss; thick: the certain.",
            f"Betti curves of {bars}.",
            wide=True,
        ),
    )


def _basins(survey: Survey, scale: Scale) -> tuple[Figure, ...]:
    tree, land = survey.tree, survey.landscape
    found = count_basins(survey)
    sure = f", {found.certain} certain" if found.judged else ", certainty unknown"
    basins = count(found.total, "minimum", "minima") + sure
    return (
        Picture(
            "Merge tree",
            tree_figure(tree, scale=scale),
            "How basins join as the water rises, numbered as on the map and in the table.",
            f"Merge tree: {basins}.",
        ),
        Picture(
            "Topological profile",
            profile_figure(land, tree, scale=scale),
            "Each basin as wide as it holds points of the map; it works in any dimension.",
            f"Topological profile: {basins}.",
        ),
    )


def _minima(survey: Survey) -> tuple[Table, ...]:
    land, tree = survey.landscape, survey.tree
    marks = marked_minima(land, tree)
    judged = count_basins(survey).judged
    rows = []
    for k, basin in enumerate(marks.numbers.tolist()):
        verdict = "certain" if marks.certain[k] else "within the error"
        verdict = verdict if judged else "unknown"
        rows.append(
            (
                str(basin),
                ", ".join(number(float(c), 3) for c in marks.points[k]),
                with_error(float(marks.values[k]), float(marks.stderr[k])),
                number(float(marks.persistences[k]), 3),
                f"{100 * tree.volumes[basin] / np.count_nonzero(land.finite):.3g} %",
                verdict,
            )
        )
    hidden = len(tree) - len(rows)
    title = "Minima" + (f" ({len(rows)} longest-lived of {len(tree):,})" if hidden else "")
    head = ("minimum", "at", "loss ± standard error", "lasts", "share of the map", "verdict")
    return (Table(title, head, tuple(rows)),)


def _numbers(survey: Survey) -> tuple[Estimate, ...]:
    diagram, tree = survey.diagram, survey.tree
    degrees = {"bars of degree 0": 0, "bars of degree 1": 1}
    bars = {name: int(np.sum(diagram.dimensions == k)) for name, k in degrees.items()}
    return (
        *_verdicts(survey),
        Number("minima", len(tree), why=MAP_COUNT, meaning="basins of every depth"),
        *_means(survey),
        *(Number(name, k, why=MAP_COUNT, meaning="in the diagram") for name, k in bars.items()),
        *_passes(survey),
    )


def _verdicts(survey: Survey) -> tuple[Estimate, ...]:
    found = count_basins(survey)
    threshold = "certainty threshold", survey.tree.threshold
    if not found.judged:
        return (Number(*threshold, why=survey.tree.why_unknown),)
    bound = "itself a bound (95 %, all points at once)"
    return (
        Number(*threshold, why=bound, meaning="what lasts longer is no effect of errors"),
        Number(
            "certain minima",
            found.certain,
            why="at least so many are real (95 %)",
            meaning="basins deeper than the threshold",
        ),
    )


def _means(survey: Survey) -> tuple[Estimate, ...]:
    tree = survey.tree
    why = f"each bar is right to within {number(tree.threshold, 2)} (95 %); more may be missed"
    if not count_basins(survey).judged:
        why = tree.why_unknown
    return tuple(
        Number(name, value, why=why, meaning=meaning)
        for name, value, meaning in (
            ("SMAD", tree.smad(), "mean rise from a minimum to its first pass"),
            ("SMAD, share of range", tree.smad(normalize=True), "the same, over the range"),
            ("mean persistence", tree.smad(rule="elder"), "mean depth of basins that end"),
        )
    )


def _passes(survey: Survey) -> tuple[Estimate, ...]:
    tree = survey.tree
    if not count_basins(survey).judged:
        return ()
    why = f"right to within {number(tree.threshold / 2, 2)} (95 %, all points at once)"
    sure = np.flatnonzero(tree.certain[tree.ended])[::-1][:_MOST_PASSES]
    return tuple(
        Number(
            f"pass of minimum {tree.ended[k]}",
            float(tree.saddle_values[k]),
            why=why,
            meaning=f"where it spills into minimum {tree.into[k]}",
        )
        for k in sure
    )
