"""The line from one checkpoint to the other."""

import numpy as np

from lossatlas.plots.interactive_pairs import chord_figure
from lossatlas.plots.scale import scale_of
from lossatlas.report.contents import Number, Picture, Section, Tile
from lossatlas.report.readings_comparison import View, read_ends, read_line
from lossatlas.report.sections.loss_map import DIFFERENCE
from lossatlas.report.sections.numbers import mapped
from lossatlas.result import Estimate, Figure, Reference
from lossatlas.text import cut_off, number, with_error

_REFERENCE = Reference(
    "loss barrier on the line between two networks",
    "J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin. Linear Mode Connectivity and the "
    "Lottery Ticket Hypothesis. ICML 2020.",
    "https://arxiv.org/abs/1912.05671",
)
_STATISTICS = Reference(
    "statistics of normalization layers estimated anew between two networks",
    "K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted "
    "Activations for Interpolation Repair. ICLR 2023.",
    "https://arxiv.org/abs/2211.08403",
)


def linear_path_section(view: View) -> Section:
    """The line between the two checkpoints of a comparison."""
    one, two = view.names
    recalibrated = view.found.line.provenance.settings.get("mode") == "recalibrated"
    return Section(
        key="line",
        title="The line between them",
        lead=(
            f"The loss of the weights on the straight way from {one} to {two}. A barrier is "
            "how far it rises above the chord, the straight line between the two losses."
        ),
        sentences=(*read_ends(view), *read_line(view)),
        tiles=_tiles(view),
        figures=(_picture(view),),
        estimates=_numbers(view),
        references=(_REFERENCE, _STATISTICS) if recalibrated else (_REFERENCE,),
    )


def _tiles(view: View) -> tuple[Tile, ...]:
    line, found = view.found.line, view.found
    value, error = _split(found.barrier, found.barrier_stderr)
    bound = view.line_bound
    if bound > 0 and np.isfinite(found.barrier):
        verdict = "certain" if found.barrier > bound else "within the error"
        error = f"{error}, {verdict}" if found.barrier > 0 else f"{error}, none seen"
    tiles = [Tile("barrier", value, error)]
    for name, k in zip(view.names, (0, -1), strict=True):
        tiles.append(
            Tile(f"loss at {name}", *_split(float(line.values[k]), float(line.stderr[k])))
        )
    return tuple(tiles)


def _split(value: float, stderr: float) -> tuple[str, str]:
    shown, _, error = with_error(value, stderr).partition(" ± ")
    return shown, f"± {error}" if error else "no error known"


def _picture(view: View) -> Figure:
    line = view.found.line
    note = ""
    if scale_of(line.values).is_log:
        note = " Heights are logarithmic above the lowest loss, so the chord bends."
    ends = " and ".join(number(float(line.values[k]), 3) for k in (0, -1))
    return Picture(
        "Loss along the line",
        chord_figure(line, names=view.names, top=view.top),
        "The band holds each value alone with 95 % probability; dots were computed, the rest "
        f"is interpolated.{note}",
        f"Line plot of the loss between the two checkpoints. Ends at {ends}; "
        f"barrier {number(view.found.barrier, 3)}.",
        wide=True,
    )


def _numbers(view: View) -> tuple[Estimate, ...]:
    line, found = view.found.line, view.found
    one, two = view.names
    last = line.values.size - 1
    lowest = int(np.where(line.finite, line.values, np.inf).argmin())
    highest = int(np.where(line.finite, line.values, -np.inf).argmax())
    step = float(line.values[-1] - line.values[0])
    rows = [
        Number(
            "barrier",
            found.barrier,
            found.barrier_stderr,
            _no_error(found.barrier),
            meaning="highest rise above the chord; error as if losses were independent",
        ),
        _bound(view),
        mapped(line, f"loss at {one}", 0),
        mapped(line, f"loss at {two}", last),
        Number("difference of the losses", step, why=DIFFERENCE, meaning=f"{two} minus {one}"),
        mapped(line, "lowest loss on the line", lowest),
        mapped(line, "highest loss on the line", highest),
    ]
    if not line.computed.all():
        why = f"itself an error: {line.held_out:,} points, each predicted from the others"
        rows.append(
            Number("interpolation error of the line", line.interpolation_error, why=why)
        )
    return (*rows, *_metrics(view))


def _no_error(barrier: float) -> str:
    lost = "the loss is not finite on the way"
    return "the line has no standard errors" if np.isfinite(barrier) else lost


def _bound(view: View) -> Estimate:
    why = "itself a bound (95 %, all points at once)"
    if view.line_bound <= 0:
        why = "no error of the line is known"
    return Number(
        "what a rise may be wrong by",
        view.line_bound or float("nan"),
        why=why,
        meaning="a barrier above it is certain",
    )


def _metrics(view: View) -> list[Estimate]:
    line = view.found.line
    rows = []
    for name, values in line.metrics.items():
        errors = line.metric_stderr.get(name, np.full(values.shape, np.nan))
        places = {f"at {view.names[0]}": 0, "half-way": values.size // 2}
        places[f"at {view.names[1]}"] = values.size - 1
        for place, k in places.items():
            title = f"{cut_off(name, 40)} {place}"
            why = "interpolated, or no spread is known"
            rows.append(Number(title, float(values[k]), float(errors[k]), why))
    return rows
