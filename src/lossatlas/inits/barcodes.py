"""Topology of a sampled neighborhood as numbers: arrays in, no network known."""

import numpy as np
from numpy.typing import NDArray

from lossatlas.inits.neighborhood import Neighborhood, Sampling
from lossatlas.rng import derive_seed
from lossatlas.topology import (
    Diagram,
    Graph,
    MergeTree,
    betti_curve,
    entropy,
    merge_tree,
    persistence,
    rips,
    scattered,
    simplify,
    total_persistence,
)

Array = NDArray[np.float64]
# Group and name of a feature.
Key = tuple[str, str]
LEVELS = 50
# Bars shorter than this share of the greatest loss are rounding of float32.
ROUNDING = 1e-6


def plane_numbers(values: Array) -> dict[str, float]:
    """Sublevel persistence and the merge tree of one plane."""
    diagram = persistence(values)
    tree, span = simplify(merge_tree(values), _floor(diagram)), _span(diagram)
    numbers = _basins(diagram, tree, span)
    ridges = _long(diagram, 1)
    return numbers | {
        "ridges": float(len(ridges)),
        "ridge total": float((ridges[:, 1] - ridges[:, 0]).sum()),
        "ridge relative": float((ridges[:, 1] - ridges[:, 0]).max(initial=0.0)) / span,
        "ridge betti": _betti_mean(diagram, 1),
        "center depth": _center_depth(values, tree) / span,
    }


def graph_numbers(points: Array, losses: Array) -> dict[str, float]:
    """Lower-star persistence of scattered points on their neighbor graph."""
    source: Graph = scattered(points, losses, method="knn")
    diagram = persistence(source)
    return _basins(diagram, simplify(merge_tree(source), _floor(diagram)), _span(diagram))


def cloud_numbers(points: Array, losses: Array) -> dict[str, float]:
    """Rips persistence of points lifted by their losses, each axis in units of its spread."""
    finite = np.isfinite(losses)
    lifted = np.column_stack([points[finite], losses[finite]])
    middle = np.median(lifted, axis=0)
    spread = np.median(np.abs(lifted - middle), axis=0)
    cloud = (lifted - middle) / np.where(spread > 0, spread, 1.0)
    diagram = rips(cloud, dimensions=(0, 1))
    numbers: dict[str, float] = {}
    for degree in (0, 1):
        bars = diagram.bars(degree)
        lengths = bars[:, 1] - bars[:, 0]
        numbers |= {
            f"h{degree} bars": float(lengths.size),
            f"h{degree} total": float(lengths.sum()),
            f"h{degree} longest": float(lengths.max(initial=0.0)),
            f"h{degree} entropy": entropy(diagram, dimension=degree),
        }
    return numbers


def _basins(diagram: Diagram, tree: MergeTree, span: float) -> dict[str, float]:
    bars = _long(diagram, 0)
    lengths = bars[:, 1] - bars[:, 0]
    shares = tree.volumes / max(int(tree.volumes.sum()), 1)
    return {
        "basins": float(len(bars) + np.count_nonzero(diagram.essential & _degree(diagram, 0))),
        "total": float(lengths.sum()),
        "longest": float(lengths.max(initial=0.0)),
        "relative": float(lengths.max(initial=0.0)) / span,
        "relative total": float(lengths.sum()) / span,
        "entropy": entropy(bars),
        "energy": float(np.sqrt(total_persistence(bars, order=2))) / span,
        "betti": _betti_mean(diagram, 0),
        "saddle minimum": tree.smad(normalize=True),
        "deepest share": float(shares[0]),
    }


def _span(diagram: Diagram) -> float:
    return max(diagram.high - diagram.low, float(np.finfo(np.float64).tiny))


def _floor(diagram: Diagram) -> float:
    return ROUNDING * max(abs(diagram.high), abs(diagram.low))


def _long(diagram: Diagram, degree: int) -> Array:
    bars = diagram.bars(degree)
    return np.asarray(bars[bars[:, 1] - bars[:, 0] > _floor(diagram)])


def _degree(diagram: Diagram, degree: int) -> NDArray[np.bool_]:
    return np.asarray(diagram.dimensions == degree)


def _betti_mean(diagram: Diagram, degree: int) -> float:
    # The area under the curve over the range of the levels; without its ends, where the curve
    # of a single basin is 0 or 1 by rounding.
    levels = np.linspace(diagram.low, diagram.high, LEVELS + 2)[1:-1]
    return float(betti_curve(diagram, levels, dimension=degree).mean())


def _center_depth(values: Array, tree: MergeTree) -> float:
    # How far the middle lies above the bottom of its own basin.
    middle = tuple(size // 2 for size in values.shape)
    basin = tree.basins[middle]
    if basin < 0:
        return 0.0
    return float(values[middle] - tree.minima_values[basin])


def loss_numbers(losses: Array, center: float) -> dict[str, float]:
    """Statistics of sampled losses; any shuffle of the points leaves them as they are."""
    flat = np.sort(losses[np.isfinite(losses)].ravel())
    lost = {"not finite": 1.0 - flat.size / max(losses.size, 1)}
    if flat.size == 0:
        return dict.fromkeys(loss_numbers(np.zeros(1), 0.0), np.nan) | lost
    mean, deviation = float(flat.mean()), float(flat.std())
    low, median, high = np.quantile(flat, (0.1, 0.5, 0.9))
    numbers = {
        "mean": mean,
        "deviation": deviation,
        "least": float(flat[0]),
        "greatest": float(flat[-1]),
        "median": float(median),
        "skewness": float(((flat - mean) ** 3).mean() / deviation**3) if deviation else 0.0,
        "spread": float(high - low),
        "rise": mean - center,
        "fall": float(flat[0]) - center,
        "variation": deviation / abs(mean) if mean else 0.0,
        "below": float((flat < center).mean()),
    }
    return numbers | lost


def landscape_row(around: Neighborhood, sampling: Sampling) -> dict[Key, float]:
    """Features of one neighborhood, and of its losses shuffled over the points."""
    source = np.random.default_rng(derive_seed("inits topology null", sampling.seed))
    planes = around.planes.reshape(*around.planes.shape[:2], -1)
    dealt = Neighborhood(
        around.center,
        source.permuted(planes, axis=-1).reshape(around.planes.shape),
        around.points,
        source.permutation(around.scattered),
    )
    row = {("topology", n): v for n, v in topology_numbers(around, sampling).items()}
    row |= {("null", f"null: {n}"): v for n, v in topology_numbers(dealt, sampling).items()}
    for index, radius in enumerate(sampling.radii):
        numbers = loss_numbers(around.planes[:, index], around.center)
        row |= {("statistics", f"{name} at {radius:g}"): v for name, v in numbers.items()}
    numbers = loss_numbers(around.scattered, around.center)
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


def topology_numbers(around: Neighborhood, sampling: Sampling) -> dict[str, float]:
    """The topology of one neighborhood, planes of a radius averaged."""
    numbers: dict[str, float] = {}
    for index, radius in enumerate(sampling.radii):
        each = [plane_numbers(p) for p in around.planes[:, index] if np.isfinite(p).any()]
        for name in each[0] if each else ():
            numbers[f"{name} at {radius:g}"] = float(np.mean([one[name] for one in each]))
    if np.isfinite(around.scattered).any():
        part = slice(0, sampling.cloud)
        graph = graph_numbers(around.points, around.scattered)
        numbers |= {f"{name} of the graph": value for name, value in graph.items()}
        cloud = cloud_numbers(around.points[part], around.scattered[part])
        numbers |= {f"{name} of the cloud": value for name, value in cloud.items()}
    return numbers
