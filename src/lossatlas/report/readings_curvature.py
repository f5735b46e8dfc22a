"""What curvature says in plain sentences: saddles, outliers, parts, steps."""

import math

import numpy as np

from lossatlas.curvature import GradientNoise, GroupSpectrum, Spectrum, Stability
from lossatlas.surveys import Survey
from lossatlas.text import count, cut_off, number, percent, with_error

RULES = {"descent": "gradient descent", "adam": "Adam's scale", "optimizer": "the optimizer"}
# Below this share of the largest eigenvalue a negative one is no saddle worth a word.
_SADDLE = 0.05


def read_curvature(survey: Survey) -> list[str]:
    """Saddle or bowl, outliers, and whether the numbers arrived."""
    spectrum = survey.spectrum
    if spectrum is None:
        return []
    found = [_saddle(spectrum)]
    if spectrum.outliers:
        stand = "stands" if spectrum.outliers == 1 else "stand"
        outliers = count(spectrum.outliers, "eigenvalue")
        found.append(f"{outliers} {stand} apart above the bulk of the spectrum.")
    if not spectrum.reached:
        why = f": {spectrum.note}" if spectrum.note else ""
        found.append(
            f"The {_missed(spectrum)} eigenvalues did not reach the tolerance{why}; their "
            "bounds say what is known."
        )
    return found


def _missed(spectrum: Spectrum) -> str:
    if spectrum.top_reached:
        return "lowest"
    return "largest" if spectrum.bottom_reached else "largest and lowest"


def _saddle(spectrum: Spectrum) -> str:
    if not len(spectrum.bottom):
        return "The lowest eigenvalue was not asked for."
    lowest, bound = float(spectrum.bottom[0]), float(spectrum.bottom_bounds[0])
    ratio = spectrum.saddle_ratio
    if math.isnan(ratio):
        high = spectrum.saddle_range[1]
        share = f", at most {number(high, 2)} times the largest" if math.isfinite(high) else ""
        return (
            f"Whether some direction bends downhill is not known: the lowest eigenvalue found "
            f"is {with_error(lowest, bound)} (error bound{share})."
        )
    if lowest >= 0:
        return "No direction bends downhill: the lowest eigenvalue found is not negative."
    if math.isinf(ratio):
        return "Every direction bends downhill or not at all: the weights lie on a top."
    how = "slightly downhill" if ratio < _SADDLE else "downhill"
    return (
        f"Some direction bends {how}: the lowest eigenvalue is negative, {number(ratio, 2)} "
        "times the largest in size."
    )


def read_criteria(survey: Survey) -> list[str]:
    """How much of the spectrum is negative."""
    found = survey.part("criteria", "criteria")
    if found is None or not math.isfinite(found.ends.value):
        return []
    mass = number(found.mass.value, 2) if math.isfinite(found.mass.value) else "not known"
    return [
        f"The smallest eigenvalue is {percent(found.ends.value)} of the largest in size "
        f"(criterion re); criterion K, negative over positive, is {mass}."
    ]


def read_parts(survey: Survey) -> list[str]:
    """The sharpest layer and class, and the class nearest to a saddle."""
    return [
        sentence
        for kind, name in (("layers", "layer"), ("classes", "class"))
        for sentence in _of_parts(survey.part(kind, kind) or (), name)
    ]


def _of_parts(groups: tuple[GroupSpectrum, ...], name: str) -> list[str]:
    known = [line for line in groups if np.isfinite(line.largest)]
    if len(known) < 2:
        return []
    sharp = max(known, key=lambda line: line.largest)
    value = with_error(sharp.largest, sharp.largest_bound)
    found = [f"The sharpest {name} is {cut_off(sharp.name, 30)}: largest eigenvalue {value}."]
    known = [line for line in known if not math.isnan(line.ratio)]
    saddle = max(known, key=lambda line: line.ratio, default=None)
    if saddle is not None and saddle.ratio >= _SADDLE:
        found.append(
            f"The {name} nearest to a saddle is {cut_off(saddle.name, 30)}: its lowest "
            f"eigenvalue is negative, {number(saddle.ratio, 2)} times its largest in size."
        )
    return found


def read_stability(survey: Survey) -> list[str]:
    """The learning rate against the edge of stability."""
    finding = survey.findings.get("stability")
    results = {} if finding is None else finding.results
    return [_edge(RULES[key], results[key]) for key in RULES if key in results]


def _edge(rule: str, found: Stability) -> str:
    value, edge = number(found.sharpness, 2), number(found.threshold, 3)
    start = f"For {rule}, lr x λmax = {value}"
    if abs(found.sharpness - found.threshold) <= found.bound:
        return f"{start}: at the edge of stability ({edge}), within the error bound."
    if math.isnan(found.sharpness + found.bound):
        return f"{start}: where it stands to the edge of stability ({edge}) is not known."
    if found.sharpness > found.threshold:
        return (
            f"{start}: above the edge of stability ({edge}); on a quadratic steps along the "
            "sharpest direction would grow."
        )
    if not found.reached:
        return (
            f"{start} at least (the tolerance was not reached): whether it is above the edge "
            f"of stability ({edge}) is not known."
        )
    share = percent(max(found.ratio, 0.0))
    return f"{start}: below the edge of stability ({edge}), at {share} of it."


def read_gradient(survey: Survey) -> list[str]:
    """Whether the gradient stands above its noise."""
    found = survey.part("gradient", "noise")
    if found is None:
        return []
    length = with_error(found.norm.value, found.norm.stderr)
    if not math.isfinite(found.floor):
        return [f"The gradient is {length} long; nothing is known of its noise."]
    if not math.isfinite(found.noise_scale.value):
        return [
            f"The gradient is {length} long, no longer than sampling alone would make it: the "
            "weights are at rest as far as these examples can tell."
        ]
    times = number(found.norm.value / found.floor, 2) if found.floor else "∞"
    return [
        f"The gradient is {length} long, {times} times what sampling alone would give; "
        f"{_noise_scale(found)}."
    ]


def _noise_scale(found: GradientNoise) -> str:
    scale = found.noise_scale
    shown = with_error(scale.value, scale.stderr)
    if not scale.interval()[0] > 0:
        return f"the noise scale is hardly known ({shown} {found.unit})"
    return f"the noise scale is {shown} {found.unit}: smaller batches are mostly noise"
