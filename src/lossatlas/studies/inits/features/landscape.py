"""Features of the losses around a candidate, and of the same losses dealt out anew."""

import numpy as np
from numpy.typing import NDArray

from lossatlas.rng import derive_seed
from lossatlas.studies.inits.features.barcodes import (
    cloud_numbers,
    graph_numbers,
    plane_numbers,
)
from lossatlas.studies.inits.features.neighborhood import Neighborhood, Sampling
from lossatlas.studies.inits.features.statistics import loss_numbers

Array = NDArray[np.float64]
Key = tuple[str, str]


def landscape_row(found: Neighborhood, sampling: Sampling) -> dict[Key, float]:
    """Features of one neighborhood, and of its losses shuffled over the points."""
    source = np.random.default_rng(derive_seed("inits topology null", sampling.seed))
    planes = found.planes.reshape(*found.planes.shape[:2], -1)
    dealt = Neighborhood(
        found.center,
        source.permuted(planes, axis=-1).reshape(found.planes.shape),
        found.points,
        source.permutation(found.scattered),
    )
    row = {("topology", n): v for n, v in topology_numbers(found, sampling).items()}
    row |= {("null", f"null: {n}"): v for n, v in topology_numbers(dealt, sampling).items()}
    for index, radius in enumerate(sampling.radii):
        numbers = loss_numbers(found.planes[:, index], found.center)
        row |= {("statistics", f"{name} at {radius:g}"): v for name, v in numbers.items()}
    numbers = loss_numbers(found.scattered, found.center)
    return row | {("statistics", f"{name} in the ball"): v for name, v in numbers.items()}


def landscape_keys(sampling: Sampling) -> list[Key]:
    """The features of any neighborhood, in order."""
    source = np.random.default_rng(0)
    shape = (sampling.planes, len(sampling.radii), sampling.points, sampling.points)
    ball = sampling.ball()
    return list(
        landscape_row(
            Neighborhood(0.5, source.random(shape), ball, source.random(len(ball))), sampling
        )
    )


def topology_numbers(found: Neighborhood, sampling: Sampling) -> dict[str, float]:
    """The topology of one neighborhood, planes of a radius averaged."""
    numbers: dict[str, float] = {}
    for index, radius in enumerate(sampling.radii):
        each = [plane_numbers(p) for p in found.planes[:, index] if np.isfinite(p).any()]
        for name in each[0] if each else ():
            numbers[f"{name} at {radius:g}"] = float(np.mean([one[name] for one in each]))
    if np.isfinite(found.scattered).any():
        part = slice(0, sampling.cloud)
        graph = graph_numbers(found.points, found.scattered)
        numbers |= {f"{name} of the graph": value for name, value in graph.items()}
        cloud = cloud_numbers(found.points[part], found.scattered[part])
        numbers |= {f"{name} of the cloud": value for name, value in cloud.items()}
    return numbers
