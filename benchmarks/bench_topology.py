"""The topology room against gudhi, cripser, ripser, persim, Landscaper and topopy."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
from scipy.ndimage import gaussian_filter

from lossatlas.topology import (
    bottleneck,
    graph,
    merge_tree,
    persistence,
    rips,
    scattered,
    sliced_wasserstein,
)
from lossatlas.topology.cubical import degree_zero

Job = Callable[[], Any]


def rows() -> list[dict[str, Any]]:
    """CPU time on one thread, medians of interleaved rounds.

    Returns:
        One row a comparison; a peer that is not installed leaves its row with a note.
    """
    return [
        *_basins_of_a_smooth_plane(),
        *_bars_of_noise(),
        *_what_is_added_to_gudhi(),
        *_trees(),
        *_large_trees(),
        *_graphs(),
        _scattered_points(),
        _cloud(),
        _sliced(),
        *_bottleneck(),
    ]


def smooth(side: int, dims: int = 2) -> np.ndarray:
    """Noise smoothed over four grid steps."""
    rng = np.random.default_rng(0)
    return gaussian_filter(rng.standard_normal((side,) * dims), 4)


def _basins_of_a_smooth_plane() -> list[dict[str, Any]]:
    f = smooth(512)

    def ours() -> Any:
        return degree_zero(f, "axis")

    def gudhi() -> Any:
        import gudhi

        complex_ = gudhi.CubicalComplex(vertices=f)
        complex_.compute_persistence()
        return complex_.persistence_intervals_in_dimension(0)

    def cripser() -> Any:
        import cripser

        return cripser.computePH(f, maxdim=0)

    what = "H0 of a smooth 512 x 512 plane, numpy alone"
    return [
        _row(what, "gudhi", "CubicalComplex", ours, gudhi, ">= 5x"),
        _row(what, "cripser", "H0 only", ours, cripser, ">= 1x"),
    ]


def _bars_of_noise() -> list[dict[str, Any]]:
    f = np.random.default_rng(0).random((512, 512))

    def ours() -> Any:
        return persistence(f, connectivity="axis")

    def gudhi() -> Any:
        import gudhi

        complex_ = gudhi.CubicalComplex(vertices=f)
        complex_.compute_persistence()
        return [complex_.persistence_intervals_in_dimension(k) for k in (0, 1)]

    def cripser() -> Any:
        import cripser

        return cripser.computePH(f, maxdim=1)

    what = "H0 and H1 (V) of 512 x 512 white noise"
    same = {"note": "ours is gudhi's CubicalPersistence, on a turned field"}
    return [
        _row(what, "gudhi", "CubicalComplex", ours, gudhi, ">= 20x") | same,
        _row(what, "cripser", "both degrees", ours, cripser, ">= 4x") | same,
    ]


def _what_is_added_to_gudhi() -> list[dict[str, Any]]:
    x = np.linspace(-1, 1, 41)
    bowl = x[:, None] ** 2 + 0.3 * x**2 + 0.05 * np.sin(9 * x)[:, None]

    def ours() -> Any:
        return [persistence(bowl) for _ in range(20)]

    def gudhi() -> Any:
        from gudhi.sklearn.cubical_persistence import CubicalPersistence

        route = CubicalPersistence([0, 1], input_type="top_dimensional_cells")
        return [route.fit_transform([bowl]) for _ in range(20)]

    # At most 1.3 times its time.
    what = "H0 and H1 of a 41 x 41 map with one minimum, 20 times"
    row = _row(what, "gudhi", "CubicalPersistence", ours, gudhi, ">= 0.77x")
    return [row | {"note": "the function that ours calls: what arguments and certainty add"}]


def _large_trees() -> list[dict[str, Any]]:
    plane = gaussian_filter(np.random.default_rng(0).standard_normal((2048, 2048)), 16)
    noise = np.random.default_rng(0).random((1024, 1024))
    return [
        _alone(
            "merge tree of a smooth 2048 x 2048 plane", lambda: merge_tree(plane), "< 510 ms"
        ),
        _alone("merge tree of 1024 x 1024 white noise", lambda: merge_tree(noise), ""),
    ]


def _trees() -> list[dict[str, Any]]:
    f, solid = smooth(31), smooth(41, 3)

    def ours() -> Any:
        return merge_tree(f, connectivity="axis").smad()

    def landscaper() -> Any:
        from landscaper.landscape import LossLandscape

        places = np.arange(31.0)
        with harness.silence():
            return LossLandscape(f, [places, places]).smad()

    def alone() -> Any:
        return merge_tree(solid, connectivity="axis").smad()

    return [
        _row(
            "merge tree and SMAD, 31 x 31",
            "landscaper",
            "its `smad()`",
            ours,
            landscaper,
            ">= 1000x",
            rounds=1,
        ),
        _alone("merge tree and SMAD, 41 x 41 x 41", alone, "< 1000 ms"),
    ]


def _graphs() -> list[dict[str, Any]]:
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (20_000, 5))
    values = ((points**2 - 1) ** 2).sum(axis=1)
    _, near = cKDTree(points).query(points, k=11)
    edges = np.stack([np.repeat(near[:, 0], 10), near[:, 1:].ravel()], axis=1)
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    heights = values[edges].max(axis=1)

    def ours() -> Any:
        return persistence(graph(values, edges, heights))

    def gudhi() -> Any:
        import gudhi

        tree = gudhi.SimplexTree()
        tree.insert_batch(np.arange(values.size)[None], values)
        tree.insert_batch(edges.T.copy(), heights)
        tree.compute_persistence(persistence_dim_max=False)
        return tree.persistence_intervals_in_dimension(0)

    what = f"H0 of a graph, 20,000 vertices, {len(edges):,} edges given"
    return [_row(what, "gudhi", "SimplexTree", ours, gudhi, ">= 8x")]


def _scattered_points() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (10_000, 2))
    values = ((points**2 - 1) ** 2).sum(axis=1) + 0.1 * np.sin(7 * points[:, 0])

    def ours() -> Any:
        return merge_tree(scattered(points, values))

    def topopy() -> Any:
        import nglpy
        import topopy

        found = nglpy.EmptyRegionGraph(beta=1.0, relaxed=False, p=2.0, max_neighbors=10)
        tree = topopy.MergeTree(graph=found)
        with harness.silence():
            tree.build(points, values)
        return tree

    what = "merge tree of 10,000 scattered points, end to end"
    return _row(what, "topopy", "10 neighbors", ours, topopy, ">= 2x")


def _cloud() -> dict[str, Any]:
    points = np.random.default_rng(0).standard_normal((1000, 10))

    def ours() -> Any:
        return rips(points)

    def ripser() -> Any:
        import ripser

        return ripser.ripser(points, maxdim=1)

    # At most 1.2 times its CPU time.
    what = "Rips H0 and H1, 1,000 points in 10 dimensions"
    return _row(what, "ripser", "ripser.py", ours, ripser, ">= 0.833x")


def _sliced() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.random((500, 2)), axis=1) for _ in "ab")

    def ours() -> Any:
        return sliced_wasserstein(a, b)

    def persim() -> Any:
        import persim

        return persim.sliced_wasserstein(a, b, M=50)

    what = "sliced Wasserstein, 500 and 500 bars, 50 directions"
    return _row(what, "persim", "M=50", ours, persim, ">= 10x")


def _bottleneck() -> list[dict[str, Any]]:
    def at(count: int) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        a, b = (np.sort(rng.random((count, 2)), axis=1) for _ in "ab")

        def gudhi() -> Any:
            import gudhi

            return gudhi.bottleneck_distance(a, b)

        what = f"bottleneck distance, {count:,} and {count:,} bars"
        # At most 1.5 times its time.
        row = _row(what, "gudhi", "CGAL, GPL", lambda: bottleneck(a, b), gudhi, ">= 0.667x")
        return row | {"note": "ours is exact, by matchings of scipy, without CGAL"}

    return [at(200), at(1000)]


def _row(
    what: str,
    module: str,
    detail: str,
    ours: Job,
    peer: Job,
    goal: str,
    rounds: int = harness.ROUNDS,
) -> dict[str, Any]:
    if not harness.installed(module):
        name = f"{module}: {detail}"
        note = f"{module} is not installed"
        return _alone(what, ours, goal) | {"peer": name, "note": note}
    name = f"{module} {importlib.metadata.version(module)}: {detail}"
    times = harness.interleaved({"ours": ours, "peer": peer}, rounds)
    ours_ms, peer_ms = times["ours"].ms, times["peer"].ms
    found = {"what": what, "peer": name, "ours_ms": ours_ms, "peer_ms": peer_ms}
    return found | {"ratio": peer_ms / ours_ms, "goal": goal}


def _alone(what: str, ours: Job, goal: str) -> dict[str, Any]:
    taken = harness.interleaved({"ours": ours})["ours"].ms
    none = {"peer": "", "peer_ms": None, "ratio": None}
    return {"what": what, "ours_ms": taken, "goal": goal, **none}


if __name__ == "__main__":
    for row in rows():
        theirs = (
            "" if row["peer_ms"] is None else f"{row['peer_ms']:9.1f} ms {row['ratio']:8.1f}x"
        )
        ours = f"{row['ours_ms']:9.2f} ms"
        print(f"{row['what']:55} {ours}  {row['peer']:28} {theirs}  {row['goal']}")
