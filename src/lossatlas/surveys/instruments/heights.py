"""How the loss rises around the weights: sharpness, flatness, roughness, sample size."""

from collections.abc import Mapping
from typing import Any

from lossatlas.checks import check_at_least
from lossatlas.curvature import (
    average_sharpness,
    m_sharpness,
    relative_flatness,
    roughness,
    sample_size_curve,
    worst_sharpness,
)
from lossatlas.objective.batches import batch_size
from lossatlas.surveys.context import Context, Parts
from lossatlas.surveys.instrument_result import Quantity, estimated

# Sets of m-sharpness; the size of a micro-batch on one device.
_SET = 16
_ASCENT = "largest rise found in the ball by ascent; a lower bound of the maximum"


def measure_sharpness(site: Context) -> Parts:
    """Rises in balls around the weights: mean, worst, adaptive, and of small sets."""
    objective, seed = site.objective, site.seed
    return {
        "average": lambda: average_sharpness(objective, seed=seed),
        "worst": lambda: worst_sharpness(objective, restarts=1, seed=seed),
        "adaptive_average": lambda: average_sharpness(objective, adaptive=True, seed=seed),
        "adaptive_worst": lambda: worst_sharpness(
            objective, adaptive=True, restarts=1, seed=seed
        ),
        "sets": lambda: m_sharpness(objective, _set_size(site)),
    }


def _set_size(site: Context) -> int:
    largest = max(site.objective.gathered(batch_size))
    check_at_least("examples of a batch", largest, 2)
    return min(_SET, largest)


def read_sharpness(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_sharpness`."""
    means = {
        "average": ("average sharpness", "mean rise 0.05 away"),
        "adaptive_average": (
            "adaptive average sharpness",
            "mean rise 0.5 away, in units of the size of each weight",
        ),
        "sets": ("m-sharpness", "worst rise of small sets of examples, averaged"),
    }
    worst = {
        "worst": ("worst-case sharpness", f"radius 0.05; {_ASCENT}"),
        "adaptive_worst": (
            "adaptive worst-case sharpness",
            f"radius 0.5 in units of the size of each weight; {_ASCENT}",
        ),
    }
    found = [estimated(n, results[k], m) for k, (n, m) in means.items() if k in results]
    found += [estimated(n, results[k].rise, m) for k, (n, m) in worst.items() if k in results]
    return tuple(found)


def measure_flatness(site: Context) -> Parts:
    """Relative flatness of the last weight matrix."""
    return {"flatness": lambda: relative_flatness(site.objective, limit=100, seed=site.seed)}


def read_flatness(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The number of `measure_flatness`."""
    meaning = "trace of the last layer's Hessian weighed by its weights; small is flat"
    return (estimated("relative flatness", results["flatness"], meaning),)


def measure_roughness(site: Context) -> Parts:
    """Total variation over range along random lines."""
    return {
        "roughness": lambda: roughness(site.objective, directions=12, points=21, seed=site.seed)
    }


def read_roughness(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_roughness`."""
    found = results["roughness"]
    lines = f"{len(found.variations)} lines of {found.points} points, radius {found.radius:g}"
    mean = f"total variation over range: 1 is monotone, 2 a bowl; {lines}"
    index = "deviation of the variations over their mean: how unlike lines are"
    return (
        estimated("mean roughness", found.mean, mean),
        estimated("roughness index", found.index, index),
    )


def measure_samples(site: Context) -> Parts:
    """How many examples the landscape needs."""
    return {"curve": lambda: sample_size_curve(site.objective, seed=site.seed)}


def read_samples(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_samples`."""
    found = results["curve"]
    change, error = float(found.change[-1]) ** 0.5, float(found.stderr[-1])
    last = Quantity(
        f"change by example {int(found.sizes[-1]) + 1:,}",
        change,
        error / (2 * change) if change else 0.0,
        meaning="root mean square change of the surface in the top eigenspace",
        is_minor=True,
    )
    if found.enough is None:
        return (last,)
    low, high = (
        ("?" if end is None else f"{end:,}") for end in (found.enough_low, found.enough_high)
    )
    return (
        Quantity(
            "examples that suffice",
            found.enough,
            why=f"95 % interval {low} to {high}, over points and orders",
            meaning=f"one more changes the surface by less than {found.tolerance:.2g}",
        ),
        last,
    )
