"""The topology of a map: which basins and loops it has, and which of them are real."""

from lossatlas.plots.grid import marked_minima
from lossatlas.plots.scale import scale_of
from lossatlas.report.contents import Card, Section
from lossatlas.result import Table
from lossatlas.surveys import Survey
from lossatlas.text import as_sentence, number, with_error
from lossatlas.topology.certainty import rarest_sentence


def topology_section(survey: Survey) -> Section:
    """Basins, saddles and loops of a survey.

    Args:
        survey: the survey.

    Returns:
        Diagram, barcode, merge tree, profile, Betti curves; the minima as a table.
    """
    tree, diagram = survey.tree, survey.diagram
    persistence, barcode, betti = diagram.figures(
        scale_of(survey.landscape.values), tree.open_births
    )
    names = {estimate.name for estimate in tree.estimates()}
    bars = [estimate for estimate in diagram.estimates() if estimate.name not in names]
    return Section(
        key="topology",
        title="Basins, saddles and loops",
        lead=_lead(survey),
        sentences=read_topology(survey),
        figures=(persistence, barcode, *tree.figures(), betti),
        tables=_minima(survey),
        estimates=(*tree.estimates(), *bars),
        references=(*diagram.references, *tree.references),
    )


def read_topology(survey: Survey) -> tuple[str, ...]:
    """Basins, loops, and whether the grid is fine enough for them."""
    said = (*survey.diagram.sentences(), *survey.resolution.sentences())
    return (*survey.basin_sentences(), *said, *_rarest(survey))


def basins_question(survey: Survey) -> Card:
    """Whether the map is one basin, and how sure that is."""
    value, mark = survey.basin_answer()
    return Card("Is it one basin?", value, mark=mark, sentences=read_topology(survey))


def _rarest(survey: Survey) -> list[str]:
    # How rare an effect may be that the sample does not show.
    land, tree = survey.landscape, survey.tree
    if tree.why_unknown:
        return []
    sentence = rarest_sentence(tree.rarest_share, land.count, land.unit)
    return [sentence] if sentence else []


def _lead(survey: Survey) -> str:
    tree = survey.tree
    text = (
        "As the level of the loss rises, a basin appears at its minimum and ends at the saddle "
        "where it joins a deeper one."
    )
    if tree.why_unknown:
        return as_sentence(f"{text} Which are certain is unknown: {tree.why_unknown}")
    return (
        f"{text} Basins and loops that last longer than {number(tree.threshold, 2)} cannot "
        "come from the errors of the map (95 %, all points at once)."
    )


def _minima(survey: Survey) -> tuple[Table, ...]:
    land, tree, counts = survey.landscape, survey.tree, survey.tree.counts
    marks = marked_minima(land, tree)
    rows = []
    for k, basin in enumerate(marks.numbers.tolist()):
        rows.append(
            (
                str(basin),
                ", ".join(number(float(c), 3) for c in marks.points[k]),
                with_error(float(marks.values[k]), float(marks.stderr[k])),
                number(float(marks.persistences[k]), 3),
                f"{100 * tree.volumes[basin] / land.finite.sum():.3g} %",
                counts.verdict(basin),
            )
        )
    hidden = len(tree) - len(rows)
    title = "Minima" + (f" ({len(rows)} longest-lived of {len(tree):,})" if hidden else "")
    head = ("minimum", "at", "loss ± standard error", "lasts", "share of the map", "verdict")
    return (Table(title, head, tuple(rows)),)
