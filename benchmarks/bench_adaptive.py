"""An adaptive map of ResNet-20: evaluations, error on held-out points, CPU time."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from unittest.mock import patch

import harness
import numpy as np
import subjects
from harness import Row
from numpy.typing import NDArray

import lossatlas as la
from lossatlas.landscape.engines import Engine, Task, build
from lossatlas.landscape.engines.plain import PlainEngine
from lossatlas.landscape.plane import Plane
from lossatlas.rng import derive_seed

_POINTS = 41 if harness.QUICK else 81
_IMAGES = 32 if harness.QUICK else 512
_HELD_OUT, _FORWARDS = (60, 3) if harness.QUICK else (500, 24)


def rows() -> list[Row]:
    """One adaptive map, and every error of it that was never seen by it.

    Returns:
        Rows for the number of evaluations, for the error, and for the CPU time.
    """
    case = subjects.resnet20(_IMAGES)
    objective = case.objective
    plane = la.random_plane(objective, seed=0)
    forward = harness.interleaved({"forward": case.forward}, rounds=_FORWARDS)["forward"]
    land, seconds = harness.once(lambda: la.map_plane(objective, plane, points=_POINTS))
    errors = _held_out_errors(objective, plane, land) / land.range
    full = _POINTS**2
    what = f"{_POINTS}x{_POINTS} adaptive map, ResNet-20, {_IMAGES} images ({case.source})"
    peer = f"{full:,} plain forwards"
    typical = float(np.median(land.stderr)) / land.range
    measured = (
        f"{len(errors)} held-out interpolated points, share of the range {land.range:.0f}"
    )
    return [
        Row(f"{what}: evaluations", peer, land.evaluations, full, "points", ">= 20x"),
        *_error_rows(f"{what}: error", errors, measured, typical),
        Row(
            f"{what}: error that the map itself states",
            ours=100 * land.interpolation_error / land.range,
            unit="%",
            note=f"a 95 % bound, from leaving out each of {land.held_out} points",
        ),
        Row(
            f"{what}: CPU time",
            peer,
            seconds,
            full * forward.median,
            "s",
            ">= 40x",
            f"{land.engine} engine; a forward takes {forward.median:.2f} s, "
            f"the median of {_FORWARDS} (least {forward.minimum:.2f})",
        ),
        *_passes(),
        box(),
    ]


def _passes() -> list[Row]:
    """Evaluations of a small network for a map, those of the comparison of engines included."""
    objective = subjects.small_network().objective
    found, errors = [], []
    for span, seed in product((0.5, 1.0, 2.0), range(3)):
        plane = la.random_plane(objective, seed=seed)
        full = la.map_plane(objective, plane, span=span, points=21, adaptive=False)
        with _counted() as count:
            land = la.map_plane(objective, plane, span=span, points=21)
        found.append(sum(count))
        errors.append(np.abs(land.values - full.values).max() / full.range)
    what = "21x21 adaptive map, MLP 784-64-10, batch 512, passes in all"
    note = f"the median of {len(found)} maps of spans .5, 1 and 2; at most {max(found)}"
    return [
        Row(what, "every point", float(np.median(found)), 441, "points", "<= 60 points", note),
        Row(f"{what}: largest true error", ours=100 * float(np.mean(errors)), unit="%"),
    ]


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Points that engines evaluate, and the two of the plain loop to compare with."""
    count: list[int] = []
    evaluate, look = Engine.evaluate, PlainEngine.first_look

    def counted(engine: Engine, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        count.append(len(coordinates))
        return evaluate(engine, coordinates)

    def counted_look(engine: PlainEngine, corner: NDArray[np.float64]) -> NDArray[np.float64]:
        count.append(2)
        return look(engine, corner)

    with (
        patch.object(Engine, "evaluate", counted),
        patch.object(PlainEngine, "first_look", counted_look),
    ):
        yield count


def box() -> Row:
    """A map of a box of a small network, whose points cost little themselves."""
    case, points = subjects.small_network(), 11 if harness.QUICK else 31
    objective = case.objective
    plane = la.random_plane(objective, seed=0, dimension=3)
    jobs = {
        name: partial(la.map_plane, objective, plane, points=points, adaptive=adaptive)
        for name, adaptive in (("refined", True), ("every point", False))
    }
    land = jobs["refined"]()
    times = harness.interleaved(jobs, rounds=3)
    return Row(
        f"{points}x{points}x{points} adaptive map, MLP 784-64-10, batch 512 ({case.source})",
        "every point",
        times["refined"].ms,
        times["every point"].ms,
        goal=">= 3.33x",
        note=f"{land.evaluations} of {points**3:,} points computed",
    )


def _error_rows(
    what: str, errors: NDArray[np.float64], measured: str, typical: float
) -> list[Row]:
    figures = {
        "largest": errors.max(),
        "99th percentile": np.quantile(errors, 0.99),
        "root mean square": np.sqrt(np.mean(errors**2)),
    }
    note = f"{measured}; the typical standard error of the loss is {100 * typical:.2f} %"
    return [
        Row(f"{what}, {name}", ours=100 * float(value), unit="%", goal="<= 0.2 %", note=note)
        for name, value in figures.items()
    ]


def _held_out_errors(
    objective: la.Objective, plane: Plane, land: la.Landscape
) -> NDArray[np.float64]:
    places = np.argwhere(~land.computed)
    chosen = np.random.default_rng(derive_seed("benchmark", "held out")).permutation(places)
    chosen = chosen[:_HELD_OUT]
    points = np.stack([axis[k] for axis, k in zip(land.axes, chosen.T, strict=True)], 1)
    # The engine equals the plain loop within 1e-6 and takes half its time.
    engine = build(Task(objective, plane), land.engine)
    pieces = [points[k : k + engine.chunk] for k in range(0, len(points), engine.chunk)]
    truth = np.concatenate([engine.evaluate(piece)[:, 0] for piece in pieces])
    return np.abs(truth - land.values[tuple(chosen.T)])


if __name__ == "__main__":
    for row in rows():
        print(row, row.ratio, row.reached)
