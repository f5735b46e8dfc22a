"""Is the stated error of an adaptive map true? python docs/studies/maps/run.py"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from page import page
from surfaces import ACTIVATIONS, CALIBRATION, LINES, REPORT, Maker, network

import lossatlas as la
from lossatlas.landscape.adaptive import FACTOR, refine
from lossatlas.rng import derive_seed

HERE = Path(__file__).parent
TOLERANCE = 0.002
SIZES = {1: (41, 101, 201), 2: (21, 31, 41), 3: (9, 13)}


def of_function(name: str, maker: Maker, seed: int, dimension: int) -> dict[str, Any]:
    """Refine a random function and hold it against the truth."""
    random = np.random.default_rng(derive_seed("surface", name, seed, dimension))
    function, sizes = maker(random, dimension), SIZES[dimension]
    points = sizes[seed % len(sizes)]
    line = np.linspace(-1, 1, points)
    truth = function(*np.meshgrid(*[line] * dimension, indexing="ij"))

    def evaluate(places: Any) -> Any:
        return truth[tuple(places.T)][:, None]

    def target(known: Any) -> float:
        return TOLERANCE * float(np.ptp(known[np.isfinite(known)]))

    shape = (points,) * dimension
    found = refine(evaluate, shape, 1, target, seed=derive_seed("first", seed))
    return row(name, truth, found.values[..., 0], found.computed, found.error, found.rms)


def of_network(kind: str, seed: int) -> dict[str, Any]:
    """Map a network with and without interpolation."""
    random = np.random.default_rng(derive_seed("network", kind, seed))
    objective = network(kind, seed)
    plane = la.random_plane(objective, seed=seed)
    span, points = float(random.choice([0.5, 1.0, 2.0])), SIZES[2][seed % 3]
    truth = la.map_plane(objective, plane, span=span, points=points, adaptive=False)
    found = la.map_plane(objective, plane, span=span, points=points)
    return row(
        kind,
        truth.values,
        found.values,
        found.computed,
        found.interpolation_error,
        found.interpolation_rms,
    )


def row(
    name: str, truth: Any, values: Any, computed: Any, error: float, rms: float
) -> dict[str, Any]:
    """Shares of the range of the truth."""
    finite = np.isfinite(truth)
    size = float(np.ptp(truth[finite])) or 1.0
    off = np.abs(values - truth)[~computed] / size
    # An interpolated value where there is none is an error without bounds.
    off = np.where(finite[~computed], off, np.inf)
    return {
        "family": name,
        "points": int(truth.size),
        "dimension": truth.ndim,
        "computed": int(computed.sum()),
        "largest": _short(off.max(initial=0.0)),
        "rms": _short(np.sqrt(np.mean(off**2))) if off.size else 0.0,
        "stated": _short(error / size),
        "stated_rms": _short(rms / size),
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def functions(
    families: dict[str, Maker], count: int, first: int, dimension: int
) -> Iterator[dict[str, Any]]:
    """Some surfaces of every family."""
    for name, maker in families.items():
        for seed in range(first, first + count):
            yield of_function(name, maker, seed, dimension)


def main(scale: float = 1.0) -> dict[str, Any]:
    """Everything; other families and other seeds for the report than for the calibration."""

    def many(count: int) -> int:
        return max(1, round(scale * count))

    calibration = [
        *functions(CALIBRATION, many(40), 0, 1),
        *functions(CALIBRATION, many(40), 0, 2),
        *functions(CALIBRATION, many(4), 0, 3),
    ]
    report = [
        *functions(REPORT, many(20), 10_000, 2),
        *(of_network(kind, 10_000 + k) for kind in ACTIVATIONS for k in range(many(15))),
    ]
    # Seeds apart from those on which the number of first points of a line was chosen.
    others = [
        *functions(LINES, many(30), 30_000, 1),
        *functions(REPORT, many(3), 10_000, 3),
    ]
    return {
        "factor": FACTOR,
        "tolerance": TOLERANCE,
        "calibration": calibration,
        "report": report,
        "others": others,
    }


def _compact(results: dict[str, Any]) -> str:
    # One map a line.
    return json.dumps(results).replace('[{"', '[\n{"').replace('}, {"', '},\n{"') + "\n"


if __name__ == "__main__":
    results = main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
    if len(sys.argv) == 1:
        (HERE / "results.json").write_text(_compact(results))
        (HERE / "README.md").write_text(page(results))
    else:
        print(page(results))
