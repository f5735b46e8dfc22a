"""Maps of a plane: a small network, a convolutional one, and what a point costs beside it."""

from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import peers
import subjects
import torch
from harness import Row
from subjects import Case

import lossatlas as la
from lossatlas.landscape.engines import Task, build, choose

_POINTS = 7 if harness.QUICK else 21
_IMAGES = 64 if harness.QUICK else 512
_OURS = "lossatlas"


def rows() -> list[Row]:
    """CPU time on one thread, medians of interleaved rounds.

    Returns:
        One row a comparison.
    """
    return [*_small_network(), _resnet(), *_overhead()]


def _small_network() -> list[Row]:
    case = subjects.small_network()
    objective = case.objective
    plane = la.random_plane(objective, seed=0)

    def ours() -> la.Landscape:
        return la.map_plane(objective, plane, span=1.0, points=_POINTS, adaptive=False)

    land = ours()
    loop = peers.state_dict_loop(case, plane, land.axes)
    difference = float(np.abs(land.values / loop() - 1).max())
    jobs: dict[str, Callable[[], Any]] = {_OURS: ours, "state_dict loop": loop}
    jobs |= _peers(case, _POINTS)
    times = harness.interleaved(jobs)
    what = f"{_POINTS}x{_POINTS} map, MLP 784-64-10, batch 512 ({case.source})"
    note = f"{land.engine} engine; differs from the loop by {difference:.0e}"
    return [
        _row(what, times, "state_dict loop", ">= 10x", note),
        _row(what, times, "loss-landscapes 3.0.6", ">= 8x"),
        _row(what, times, "Landscaper 1.3.1", ">= 8x", "its map alone, no topology"),
    ]


def _resnet() -> Row:
    case = subjects.resnet20(_IMAGES)
    objective = case.objective
    plane = la.random_plane(objective, seed=0)
    points = np.array([[-0.4, 0.2], [0.1, -0.3], [0.1, 0.5], [0.6, 0.2]])
    task = Task(objective, plane)
    name = choose(task, "auto", points[:2])
    engine = build(task, name)
    times = harness.interleaved(
        {_OURS: lambda: engine.evaluate(points), "forward": case.forward}
    )
    return Row(
        f"a point of a 21x21 map, ResNet-20, {_IMAGES} images ({case.source})",
        "plain forward",
        ours=times[_OURS].ms / len(points),
        theirs=times["forward"].ms,
        goal=">= 2.3x",
        note=f"{name} engine, standard errors included; least {_least(times, len(points))}",
    )


def _overhead() -> list[Row]:
    case = subjects.resnet20(_IMAGES)
    times = harness.interleaved(
        {
            "folded": _engine_without_forward(case, "folded"),
            "plain": _engine_without_forward(case, "plain"),
            **_peers(case, _POINTS, lambda *_: 1.0),
        }
    )
    each = {name: timing.ms / _POINTS**2 for name, timing in times.items()}
    what = "overhead of a point, 272k parameters, forward removed"
    return [
        Row(
            f"{what} ({name} engine)",
            peer,
            each[name],
            each.get(peer),
            goal="<= 0.25 ms",
            note="" if peer in each else "not measured: peer is not installed",
        )
        for name in ("folded", "plain")
        for peer in ("loss-landscapes 3.0.6", "Landscaper 1.3.1")
    ]


def _engine_without_forward(case: Case, name: str) -> Callable[[], Any]:
    """All that an engine does for a map but the network and the loss themselves."""
    objective = case.objective
    plane = la.random_plane(objective, seed=0)
    engine = build(Task(objective, plane), name)
    axis = np.linspace(-1, 1, _POINTS)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    losses = torch.ones(len(case.inputs))
    # The engine was built on the real loss; from here on nothing asks the model.
    objective.loss = lambda _model, batch: losses[: len(batch[0])]
    return lambda: [
        engine.evaluate(points[start : start + engine.chunk])
        for start in range(0, len(points), engine.chunk)
    ]


def _peers(case: Case, points: int, loss: Any = None) -> dict[str, Callable[[], Any]]:
    jobs: dict[str, Callable[[], Any]] = {}
    if harness.installed("loss_landscapes"):
        jobs["loss-landscapes 3.0.6"] = peers.loss_landscapes(case, points, loss)
    if harness.installed("landscaper"):
        jobs["Landscaper 1.3.1"] = peers.landscaper(case, points, loss)
    return jobs


def _row(
    what: str, times: dict[str, harness.Timing], peer: str, goal: str, note: str = ""
) -> Row:
    if peer not in times:
        return harness.not_installed(Row(what, peer, goal=goal))
    pair = {name: times[name] for name in (_OURS, peer)}
    notes = [note] if note else []
    return Row(
        what,
        peer,
        times[_OURS].ms,
        times[peer].ms,
        goal=goal,
        note="; ".join([*notes, f"least {_least(pair)}"]),
    )


def _least(times: dict[str, harness.Timing], share: int = 1) -> str:
    ours, theirs = (1000 * timing.minimum for timing in times.values())
    return f"{ours / share:.3g} / {theirs:.3g} ms"


if __name__ == "__main__":
    for row in rows():
        print(row, row.ratio, row.reached)
