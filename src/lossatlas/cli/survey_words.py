"""What `lossatlas survey` prints: a JSON object, or a table."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.curvature import GroupSpectrum
from lossatlas.surveys import InstrumentResult, Quantity, Survey, named
from lossatlas.text import with_error
from lossatlas.topology import Diagram


def summary(survey: Survey, page: Path) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "title": survey.title,
        "loss": survey.loss.value,
        "loss_stderr": survey.loss.stderr,
        "metrics": {
            name: {"value": value.value, "stderr": value.stderr}
            for name, value in survey.metrics.items()
        },
        "grid": _grid(survey),
        "topology": _topology(survey),
        "curvature": _curvature(survey),
        "instruments": {name: _finding(found) for name, found in survey.findings.items()},
        "notes": list(survey.notes),
        "checked": list(survey.checked),
        "seconds": survey.seconds,
        "evaluations": survey.landscape.evaluations,
        "report": str(page),
    }


def _topology(survey: Survey) -> dict[str, Any]:
    diagram, tree, why = survey.diagram, survey.tree, survey.diagram.why_unknown
    return {
        "minima": len(tree),
        "bars": [_bar(diagram, row) for row in range(len(diagram))],
        "smad": tree.smad(),
        "certain_bars": None if why else int(diagram.certain.sum()),
        "threshold": None if why else diagram.threshold,
        "why_unknown": why or None,
        "rarest_share": None if np.isnan(tree.rarest_share) else tree.rarest_share,
        "connectivity": diagram.connectivity,
        "certain_basins": None if why else survey.certain_basins,
        "under_resolved": survey.resolution.under_resolved,
        "barriers": survey.barriers.tolist(),
    }


def _bar(diagram: Diagram, row: int) -> dict[str, Any]:
    places = diagram.birth_places[row], diagram.death_places[row]
    born, dies = (place.tolist() if np.isfinite(place).all() else None for place in places)
    return {
        "dimension": int(diagram.dimensions[row]),
        "birth": float(diagram.births[row]),
        "death": float(diagram.deaths[row]),
        "certain": None if diagram.why_unknown else bool(diagram.certain[row]),
        "birth_place": born,
        "death_place": dies,
    }


def table(survey: Survey, page: Path) -> list[tuple[str, str, str]]:
    """What a person is shown.

    Args:
        survey: the findings.
        page: where the report is.

    Returns:
        (name, value, error or remark) each.
    """
    land, diagram = survey.landscape, survey.diagram
    grid = " x ".join(map(str, land.values.shape))
    share = land.evaluations / land.values.size
    why = survey.loss.why_no_error
    rows = [("loss", f"{survey.loss.value:.6g}", why or f"± {survey.loss.stderr:.2g}")]
    rows += [
        (name, f"{value.value:.6g}", value.why_no_error or f"± {value.stderr:.2g}")
        for name, value in survey.metrics.items()
    ]
    basins = int((diagram.dimensions == 0).sum())
    certain = int(diagram.certain[diagram.dimensions == 0].sum())
    rows += [
        ("map", grid, f"{land.evaluations} computed ({share:.0%}), engine {land.engine}"),
        ("interpolation error", f"{land.interpolation_error:.2g}", _held_out(land.held_out)),
        ("range of the loss", f"{land.range:.6g}", _lost(int((~land.finite).sum()))),
        ("minima", str(len(survey.tree)), _touching(survey)),
        ("basins", str(basins), _certain(diagram, certain)),
        ("smad", f"{survey.tree.smad():.6g}", "mean rise to a pass, of all minima"),
        *_findings(survey),
        ("report", str(page), f"{survey.seconds:.1f} s"),
    ]
    return rows


def _certain(diagram: Diagram, count: int) -> str:
    if diagram.why_unknown:
        return f"certainty unknown: {diagram.why_unknown}"
    return f"{count} certain (the deepest, and those deeper than {diagram.threshold:.2g})"


def _grid(survey: Survey) -> dict[str, Any]:
    land = survey.landscape
    return {
        "points": list(land.values.shape),
        "ranges": [[float(axis[0]), float(axis[-1])] for axis in land.axes],
        "directions": list(land.labels),
        "computed": int(land.computed.sum()),
        "interpolation_error": land.interpolation_error,
        "non_finite": int((~land.finite).sum()),
        "engine": land.engine,
    }


def _curvature(survey: Survey) -> dict[str, Any] | None:
    spectrum, trace = survey.spectrum, survey.trace
    if spectrum is None or trace is None:
        return None
    ends = ("top", "top_bounds", "bottom", "bottom_bounds")
    low, high = spectrum.saddle_range
    return {end: getattr(spectrum, end).tolist() for end in ends} | {
        "top_reached": spectrum.top_reached,
        "bottom_reached": spectrum.bottom_reached,
        "saddle_ratio": spectrum.saddle_ratio,
        "saddle_low": low,
        "saddle_high": high,
        "trace": trace.value,
        "trace_stderr": trace.stderr,
        "products": spectrum.products + trace.products,
    }


def _finding(found: InstrumentResult) -> dict[str, Any]:
    numbers = named(found.instrument).quantities(found)
    groups = [g for part in ("layers", "classes") for g in found.results.get(part, ())]
    return {
        "numbers": {_key(number.name): _quantity(number) for number in numbers},
        "missing": dict(found.missing),
        "seconds": found.seconds,
    } | ({"groups": [_group(group) for group in groups]} if groups else {})


def _key(name: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))


def _quantity(number: Quantity) -> dict[str, Any]:
    error = "bound" if number.is_bound else "stderr"
    shown = {"value": number.value, error: number.stderr, "unit": number.unit}
    return {k: v for k, v in shown.items() if v != ""} | (
        {"why_no_error": number.why} if number.why else {}
    )


def _group(line: GroupSpectrum) -> dict[str, Any]:
    keys = ("name", "examples", "parameters", "largest", "largest_bound", "smallest")
    return {key: getattr(line, key) for key in (*keys, "smallest_bound", "ratio", "note")} | {
        "ratio_low": line.ratio_range[0],
        "ratio_high": line.ratio_range[1],
        "trace": line.trace.value,
        "trace_stderr": line.trace.stderr,
        "gradient_norm": line.gradient_norm.value,
        "gradient_norm_stderr": line.gradient_norm.stderr,
    }


def _findings(survey: Survey) -> list[tuple[str, str, str]]:
    rows = []
    for name, found in survey.findings.items():
        instrument = named(name)
        numbers = [number for number in instrument.quantities(found) if not number.is_minor]
        rows += [(number.name, *_value(number)) for number in numbers]
        rows += [
            (instrument.title.lower(), "not measured", why)
            for why in dict.fromkeys(found.missing.values())
        ]
    return rows


def _value(number: Quantity) -> tuple[str, str]:
    shown, _, error = with_error(number.value, number.stderr).partition(" ± ")
    if not error:
        return shown, number.why or number.meaning
    return shown, f"± {error}{' (bound)' if number.is_bound else ''}"


def _touching(survey: Survey) -> str:
    counted = f"{survey.diagram.connectivity} connectivity"
    return f"{counted}; under-resolved" if survey.resolution.under_resolved else counted


def _held_out(points: int) -> str:
    if not points:
        return "every point was computed"
    return f"95 % bound, from leaving out each of {points} points"


def _lost(points: int) -> str:
    return f"{points} points without a finite loss" if points else "all points finite"
