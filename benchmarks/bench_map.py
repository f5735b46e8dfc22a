"""Maps of a plane: a small network, a convolutional one, and what a point costs beside it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import numpy as np
import peers
import subjects
import torch
from harness import Row
from subjects import Case

import lossatlas as la
from lossatlas.landscape.engines import Task, build, select
from lossatlas.landscape.engines.choice import EngineName

_POINTS = 7 if harness.QUICK else 21
_IMAGES = 64 if harness.QUICK else 512
_OURS, _REFINED, _LOOP = "every point", "refined", "state_dict loop"
_LLAND, _SCAPER = "loss-landscapes 3.0.6", "Landscaper 1.3.1"
# Width, layers, sequences, tokens.
_SMALL_TRANSFORMERS = ((16, 1, 4, 8), (16, 4, 4, 8), (32, 2, 4, 16), (64, 2, 4, 16))


def rows() -> list[Row]:
    """CPU time on one thread, medians of interleaved rounds.

    Returns:
        One row a comparison.
    """
    return [
        *_small_network(),
        _resnet(),
        *_small_transformers(),
        *_language_model(),
        _survey(),
        *_overhead(),
    ]


def _small_network() -> list[Row]:
    case = subjects.small_network()
    objective = case.objective
    plane = la.random_plane(objective, seed=0)

    def every() -> la.Landscape:
        return la.map_plane(objective, plane, span=1.0, points=_POINTS, adaptive=False)

    def refined() -> la.Landscape:
        return la.map_plane(objective, plane, span=1.0, points=_POINTS)

    land, fewer = every(), refined()
    loop = peers.state_dict_loop(case, plane, land.axes)
    truth = loop()
    jobs: dict[str, Callable[[], Any]] = {_OURS: every, _REFINED: refined, _LOOP: loop}
    # Short jobs feel every neighbor: more rounds, steadier medians.
    times = harness.interleaved(jobs | _peers(case, _POINTS), rounds=3 if harness.QUICK else 21)
    what = f"{_POINTS}x{_POINTS} map, MLP 784-64-10, batch 512 ({case.source})"
    worst = float(np.abs(fewer.values - truth).max()) / land.range
    notes = {
        _OURS: f"every point computed, {land.engine} engine; "
        f"differs from the loop by {float(np.abs(land.values / truth - 1).max()):.0e}",
        _REFINED: f"the default: {fewer.evaluations} of {truth.size} points computed, the rest "
        f"within {100 * worst:.2g} % of the range",
    }
    goals = {_LOOP: ">= 10x", _LLAND: ">= 8x", _SCAPER: ">= 8x"}
    return [
        _row(f"{what}, {ours}", times, ours, peer, goal, notes[ours])
        for ours in notes
        for peer, goal in goals.items()
    ]


def _resnet() -> Row:
    case = subjects.resnet20(_IMAGES)
    objective = case.objective
    plane = la.random_plane(objective, seed=0)
    points = np.array([[-0.4, 0.2], [0.1, -0.3], [0.1, 0.5], [0.6, 0.2]])
    engine = select(Task(objective, plane), "auto", points[0]).engine
    times = harness.interleaved(
        {_OURS: lambda: engine.evaluate(points), "forward": case.forward}
    )
    return Row(
        f"a point of a 21x21 map, ResNet-20, {_IMAGES} images ({case.source})",
        "plain forward",
        ours=times[_OURS].ms / len(points),
        theirs=times["forward"].ms,
        goal=">= 2.3x",
        note=f"{engine.name} engine, with standard errors; least {_least(times, len(points))}",
    )


def _small_transformers() -> list[Row]:
    """Points of a transformer side by side, where calls cost more than what they compute."""
    return [_small_transformer(*sizes) for sizes in _SMALL_TRANSFORMERS]


def _small_transformer(width: int, layers: int, sequences: int, tokens: int) -> Row:
    torch.manual_seed(0)
    model = subjects.TiedTransformer(64, width, layers, 4).eval()
    data = tuple(torch.randint(64, (2, sequences, tokens)))
    objective = la.Objective(model, subjects.sequence_losses, [data], check=False)
    plane = la.random_plane(objective, seed=0)
    engines: dict[str, EngineName] = {_OURS: "auto", "plain loop": "plain"}
    jobs = {
        name: partial(
            la.map_plane, objective, plane, points=_POINTS, adaptive=False, engine=engine
        )
        for name, engine in engines.items()
    }
    land = jobs[_OURS]()
    off = float(np.abs(land.values / jobs["plain loop"]().values - 1).max())
    times = harness.interleaved(jobs, rounds=3)
    return Row(
        f"{_POINTS}x{_POINTS} map, GPT {layers}x{width}, {sequences} x {tokens} tokens",
        "plain loop",
        ours=times[_OURS].ms,
        theirs=times["plain loop"].ms,
        goal=">= 1.2x",
        note=f"every point computed, {land.engine} engine; differs from the loop by {off:.0e}",
    )


def _language_model() -> list[Row]:
    """A whole map over as many bare forwards: checks and drawing of directions included."""
    points = 3 if harness.QUICK else 7
    model, data = _transformer()
    halves = {"every weight moves": None, "half of the blocks": ["blocks.2.*", "blocks.3.*"]}
    objectives = {
        name: la.Objective(model, subjects.sequence_losses, [data], params=params, check=False)
        for name, params in halves.items()
    }
    planes = {name: la.random_plane(o, seed=0) for name, o in objectives.items()}

    @torch.no_grad()
    def forward() -> float:
        return subjects.sequence_losses(model, data).mean().item()

    jobs: dict[str, Callable[[], Any]] = {"forward": forward}
    for name, objective in objectives.items():
        jobs[name] = partial(
            la.map_plane, objective, planes[name], span=0.5, points=points, adaptive=False
        )
    times = harness.interleaved(jobs)
    goals = {"every weight moves": ">= 0.952x", "half of the blocks": ">= 1.67x"}
    return [
        Row(
            f"a point of a {points}x{points} map, GPT 4x256, {name}",
            "bare forward",
            ours=times[name].ms / points**2,
            theirs=times["forward"].ms,
            goal=goal,
            note="the whole map, its checks and the drawing of directions included",
        )
        for name, goal in goals.items()
    ]


def _survey() -> Row:
    """Forwards that a survey takes in all, the objective's own looks among them."""
    model, (inputs, targets) = _transformer()
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    try:
        objective = la.Objective(model, subjects.sequence_losses, [(inputs, targets)])
        la.survey(objective, points=5)
    finally:
        handle.remove()
    return Row(
        "5x5 survey of a GPT 4x256: forwards in all",
        ours=sum(calls) / len(inputs),
        unit="forwards",
        goal="<= 45",
        note=f"{len(calls)} calls of the model, some of them on a part of the batch; nothing "
        "in it depends on the size of the model as long as the plain engine serves",
    )


def _transformer() -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = subjects.TiedTransformer(1024, 256, 4, 4).eval()
    inputs, targets = torch.randint(1024, (2, 8, 64))
    return model, (inputs, targets)


def _overhead() -> list[Row]:
    case = subjects.resnet20(_IMAGES)
    times = harness.interleaved(
        {
            "folded": _engine_without_forward(case, "folded"),
            "plain": _engine_without_forward(case, "plain"),
            **_peers(case, _POINTS, lambda *_: 1.0),
        },
        rounds=3 if harness.QUICK else 15,
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
        for peer in (_LLAND, _SCAPER)
    ]


def _engine_without_forward(case: Case, name: str) -> Callable[[], Any]:
    """All that an engine does for a map but the network and the loss themselves."""
    objective = case.objective
    plane = la.random_plane(objective, seed=0)
    engine = build(Task(objective, plane), name)
    axis = np.linspace(-1, 1, _POINTS)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    # The engine was built on the real loss; from here on nothing asks the model.
    losses = {size: torch.ones(size) for size in range(1, len(case.inputs) + 1)}
    objective.loss = lambda _model, batch: losses[batch[0].shape[0]]
    return lambda: [
        engine.evaluate(points[start : start + engine.chunk])
        for start in range(0, len(points), engine.chunk)
    ]


def _peers(case: Case, points: int, loss: Any = None) -> dict[str, Callable[[], Any]]:
    jobs: dict[str, Callable[[], Any]] = {}
    if harness.installed("loss_landscapes"):
        jobs[_LLAND] = peers.loss_landscapes(case, points, loss)
    if harness.installed("landscaper"):
        jobs[_SCAPER] = peers.landscaper(case, points, loss)
    return jobs


def _row(
    what: str,
    times: dict[str, harness.Timing],
    ours: str,
    peer: str,
    goal: str,
    note: str,
) -> Row:
    if peer not in times:
        return harness.not_installed(Row(what, peer, goal=goal))
    pair = {name: times[name] for name in (ours, peer)}
    note = f"{note}; least {_least(pair)}"
    return Row(what, peer, times[ours].ms, times[peer].ms, goal=goal, note=note)


def _least(times: dict[str, harness.Timing], share: int = 1) -> str:
    ours, theirs = (1000 * timing.minimum for timing in times.values())
    return f"{ours / share:.3g} / {theirs:.3g} ms"


if __name__ == "__main__":
    for row in rows():
        print(row, row.ratio, row.reached)
