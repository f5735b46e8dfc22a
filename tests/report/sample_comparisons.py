"""Comparisons of known functions, as `compare` would return them."""

from dataclasses import replace

import numpy as np

from lossatlas.io import Provenance
from lossatlas.landscape.landscape import Landscape
from lossatlas.surveys import Comparison
from lossatlas.topology import persistence
from lossatlas.topology.basin_matching import match_basins
from lossatlas.topology.distances import bottleneck, wasserstein
from lossatlas.weights import Excess
from plots.sample_landscapes import sample_map
from report.sample_surveys import HOSTILE


def way(height=0.4, stderr=0.01, points=21):
    """A line from 0.2 to 0.3 over a hill."""
    t = np.linspace(0, 1, points)
    values = 0.2 + 0.1 * t + height * np.sin(np.pi * t) ** 2
    return Landscape(
        values=values,
        stderr=np.full(points, stderr),
        axes=(t,),
        labels=("towards checkpoint 2",),
        computed=np.ones(points, dtype=bool),
        evaluations=points,
        count=1000,
        landmarks={"checkpoints": np.array([[0.0], [1.0]])},
        landmark_residuals={"checkpoints": np.zeros(2)},
        landmark_values={"checkpoints": np.full(2, np.nan)},
    )


def comparison_of(first, second, line, stderr=0.02, settings=None):
    diagrams = persistence(first), persistence(second)
    chord = np.linspace(line.values[0], line.values[-1], line.values.size)
    excess = np.where(line.finite, line.values - chord, np.inf)
    return Comparison(
        first=first,
        second=second,
        line=line,
        diagrams=diagrams,
        matching=match_basins(first, second),
        excess=Excess(
            line.axes[0], excess, np.full(excess.size, stderr), 2.5 + 0 * stderr, 1000
        ),
        bottleneck=bottleneck(*diagrams, essential="keep"),
        wasserstein=wasserstein(*diagrams, essential="keep"),
        seconds=3.2,
        provenance=Provenance(seed=3, settings=settings or {}, model="0f3a9c", data="77be01"),
    )


def with_bump(land, x, y, depth):
    """The map with another basin (a positive depth) or a hill at a place."""
    a, b = np.meshgrid(*land.axes, indexing="ij")
    return replace(
        land, values=land.values - depth * np.exp(-((a - x) ** 2 + (b - y) ** 2) * 4)
    )


def valleys():
    """Two wells of different depth on both maps, and a third on the second."""
    land = sample_map("double well", noise=0.002)
    return comparison_of(land, with_bump(land, 0.0, 1.2, 1.6), way())


def hostile():
    land = sample_map(noise=0.02, labels=(HOSTILE, HOSTILE), notes=(HOSTILE,), engine=HOSTILE)
    line = replace(way(), labels=(HOSTILE,), metrics={HOSTILE: way().values})
    settings = dict.fromkeys(("title", "first", "second", HOSTILE), HOSTILE)
    return comparison_of(land, with_bump(land, 0.5, 0.5, 0.6), line, settings=settings)
