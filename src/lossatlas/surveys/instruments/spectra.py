"""Spectra in a survey: of all weights, of layers, of classes, and criteria read off them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lossatlas.curvature import GroupSpectrum, Spectrum, hessian_criteria, spectrum, trace
from lossatlas.surveys.context import Context, Parts
from lossatlas.surveys.instrument_result import Quantity, estimated

UNIT = "loss / weight²"
# Products for the trace: where large eigenvalues of both signs cancel, as before training, more
# of them buy little, and the error says what is known.
_TRACE = 300
# A group is described, not certified: a hundredth will do for its eigenvalues.
_GROUP = {"top": 1, "bottom": 1, "density": False, "tolerance": 1e-2, "limit": 60}


def measure_curvature(site: Context) -> Parts:
    """Extreme eigenvalues, density and trace of the Hessian."""
    return {
        "spectrum": lambda: site.spectrum,
        "trace": lambda: trace(site.objective, seed=site.seed, limit=_TRACE),
    }


def read_curvature(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_curvature`."""
    found = [q for q in (*_eigenvalues(results.get("spectrum")),) if np.isfinite(q.value)]
    if "trace" in results:
        meaning = "sum of all eigenvalues"
        found.append(estimated("trace of the Hessian", results["trace"], meaning, unit=UNIT))
    mass = results["spectrum"].negative_mass if "spectrum" in results else None
    if mass is not None:
        meaning = "share of negative eigenvalues in the sum of sizes"
        found.append(estimated("negative mass", mass, meaning, is_minor=True))
    return tuple(found)


def _eigenvalues(found: Spectrum | None) -> list[Quantity]:
    if found is None:
        return []
    ends = [("largest eigenvalue", found.top, found.top_bounds)]
    ends.append(("smallest eigenvalue", found.bottom, found.bottom_bounds))
    return [
        Quantity(
            name if k == 0 else f"{name}, {k + 1} of {len(values)}",
            float(value),
            float(bound),
            unit=UNIT,
            meaning=_known(float(value), float(bound)),
            is_bound=True,
            is_minor=k > 0,
        )
        for name, values, bounds in ends
        for k, (value, bound) in enumerate(zip(values, bounds, strict=True))
    ]


def _known(value: float, bound: float) -> str:
    hidden = abs(value) < bound
    return "error is a residual bound" + ("; its sign is not known" if hidden else "")


def measure_criteria(site: Context) -> Parts:
    """Criteria of generalization read off the density."""
    return {"criteria": lambda: hessian_criteria(site.spectrum)}


def read_criteria(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_criteria`."""
    found = results["criteria"]
    ends = "|smallest node / largest node| of the density; small is nearly convex"
    mass = f"negative over positive nodes, to the power {found.power:g}"
    return (
        estimated("Hessian criterion re", found.ends, ends),
        estimated("Hessian criterion K", found.mass, mass),
    )


def measure_layers(site: Context) -> Parts:
    """The spectrum of each layer's block of the Hessian."""
    return {"layers": lambda: _groups(site, "layer")}


def measure_classes(site: Context) -> Parts:
    """The spectrum of the mean loss of each class."""
    return {"classes": lambda: _groups(site, "class")}


def _groups(site: Context, by: str) -> tuple[GroupSpectrum, ...]:
    return spectrum(site.objective, by=by, seed=site.seed, **_GROUP).groups  # type: ignore[arg-type]


def read_layers(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_layers`."""
    return _of_groups(results["layers"], "layer")


def read_classes(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_classes`."""
    return _of_groups(results["classes"], "class")


def _of_groups(groups: tuple[GroupSpectrum, ...], kind: str) -> tuple[Quantity, ...]:
    known = [line for line in groups if np.isfinite(line.largest)]
    if not known:
        return ()
    sharp = max(known, key=lambda line: line.largest)
    ratio = _strongest_saddle(known, kind)
    lines = (quantity for line in groups for quantity in _line(line, kind))
    head = _largest(sharp, f"sharpest {kind}", f"{kind} {sharp.name}", is_minor=False)
    return (head, ratio, *lines)


def _strongest_saddle(known: list[GroupSpectrum], kind: str) -> Quantity:
    # Judged by what is certain: a sign that its bound hides makes no saddle.
    name = f"strongest saddle of a {kind}"
    saddle = max(known, key=lambda line: (line.ratio_range[0], not math.isnan(line.ratio)))
    if math.isnan(saddle.ratio):
        why = f"in no {kind} is the sign of the lowest eigenvalue known beyond its error bound"
        return Quantity(name, math.nan, why=why)
    return Quantity(
        name,
        saddle.ratio,
        saddle.ratio_bound,
        why="" if math.isfinite(saddle.ratio_bound) else "the largest may be below zero",
        meaning=f"|smallest| / largest eigenvalue, {kind} {saddle.name}; error: their bounds",
        is_bound=True,
    )


def _line(line: GroupSpectrum, kind: str) -> tuple[Quantity, ...]:
    name = f"{kind} {line.name}"
    if not np.isfinite(line.largest):
        return (Quantity(f"{name}, largest", line.largest, why=line.note, is_minor=True),)
    note = line.note or f"over {line.examples:,} examples, {line.parameters:,} weights"
    small = Quantity(
        f"{name}, smallest",
        line.smallest,
        line.smallest_bound,
        unit=UNIT,
        meaning=_known(line.smallest, line.smallest_bound),
        is_bound=True,
        is_minor=True,
    )
    return (
        _largest(line, f"{name}, largest", note, is_minor=True),
        small,
        estimated(f"{name}, trace", line.trace, "sum of eigenvalues", is_minor=True, unit=UNIT),
        estimated(f"{name}, gradient", line.gradient_norm, "its length", is_minor=True),
    )


def _largest(line: GroupSpectrum, name: str, meaning: str, *, is_minor: bool) -> Quantity:
    return Quantity(
        name,
        line.largest,
        line.largest_bound,
        unit=UNIT,
        meaning=f"{meaning}; error is a residual bound",
        is_bound=True,
        is_minor=is_minor,
    )
