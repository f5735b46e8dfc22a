"""What goes wrong on two processes; each function runs on both, in groups of its own."""

import datetime
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed, nn

import lossatlas as la
from distributed.pair import error, sharded, share, world
from distributed.problems import CE, batches, flat, network
from lossatlas import curvature
from lossatlas.linalg.basis import Basis

# Seconds that a process is waited for; errors must come long before.
LIMIT = 60


def regroup(rank: int, folder: Path, seconds: float = LIMIT) -> None:
    """A new group of the same processes, in the place of the one there is."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    number = len(list(folder.glob(f"group*.{rank}")))
    (folder / f"group{number}.{rank}").touch()
    store = distributed.FileStore(str(folder / f"store{number}"), 2)
    limit = datetime.timedelta(seconds=seconds)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=limit)


def tensor_parallel() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (2,))
    return parallelize_module(
        network(8), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )


def objectives(rank: int) -> dict:
    """Ways in which processes work together; each is called for an objective."""
    differences = {"derivatives": "differences"}
    return {
        "data": lambda: la.Objective(network(), CE, share(rank), group=world()),
        "sharded": lambda: la.Objective(sharded(), CE, share(rank)),
        "differences": lambda: la.Objective(sharded(), CE, share(rank), **differences),
        "layers": lambda: la.Objective(tensor_parallel(), CE, batches()),
    }


def destroyed(rank: int, folder: Path):
    """What calls say of objectives whose group is gone, and of one that came after it."""
    found = {}
    for kind, build in objectives(rank).items():
        regroup(rank, folder)
        objective = build()
        plane = la.random_plane(objective)
        objective.value()
        distributed.destroy_process_group()
        calls = {
            "value": objective.value,
            "gradient": objective.gradient,
            "map": lambda o=objective, p=plane: la.map_plane(o, p, points=3),
            "trace": lambda o=objective: la.trace(o, limit=4),
            "part": lambda o=objective: o.part(batches()[:1]).value(),
            "fingerprint": objective.fingerprint,
        }
        if kind != "data":
            # Without a group a whole model is an ordinary one.
            calls["params"] = lambda o=objective: o.params
            calls["anew"] = lambda o=objective: la.Objective(o.model, CE, batches())
        found |= {f"{kind} {name}": error(call) for name, call in calls.items()}
    regroup(rank, folder)
    return found


def on_one_only(rank: int, folder: Path):
    """Bad input on rank 1, and how long both processes took to say so."""

    def off(model):
        return model.to("meta") if rank else model

    def half():
        model = network()
        model[2] = off(model[2])
        return model

    def statistics():
        model = nn.Sequential(network(), nn.BatchNorm1d(3))
        model[1] = off(model[1]) if rank else model[1]
        return model

    def given(model, loss=CE, held=None, **options):
        held = share(rank) if held is None else held
        return lambda: la.Objective(model, loss, held, group=world(), **options)

    def by_mesh(model, held):
        return lambda: la.Objective(model, CE, held)

    calls = {
        "meta": given(off(network())),
        "half_meta": given(half()),
        "meta_buffers": given(statistics()),
        "meta_shards": by_mesh(off(sharded()), share(rank)),
        "meta_layers": by_mesh(off(tensor_parallel()), batches()),
        "mode": given(network(), mode="evil" if rank else "eval"),
        "params": given(network(), params="9.*" if rank else None),
        "loss": given(network(), 3 if rank else CE),
        "model": given(3 if rank else network()),
        "batches": given(network(), held=3 if rank else None),
    }
    found = {}
    for name, call in calls.items():
        started = time.monotonic()
        found[name] = [error(call), time.monotonic() - started]
    return found


class Scarce:
    """Lets the calls of a method fail for want of memory on rank 1, from one on.

    Args:
        place: object and name of the method.
        rank: of this process.
        first: number of the first call that fails.
        count: how many fail.
    """

    def __init__(self, place, rank: int, first: int, count: int = 1) -> None:
        self.owner, self.name = place
        self.inner, self.calls = getattr(*place), 0
        self.range = range(first, first + count) if rank else range(0)

    def __enter__(self):
        scarce = self

        def method(this, *args, **options):
            scarce.calls += 1
            if scarce.calls - 1 in scarce.range:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            return scarce.inner(this, *args, **options)

        setattr(self.owner, self.name, method)
        return self

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.inner)


def told(call):
    """What it gives, or its error and whether that is for want of memory."""
    try:
        return call()
    except Exception as failure:
        return [type(failure).__name__, str(failure), isinstance(failure, MemoryError)]


def maps_without_memory(rank: int, folder: Path):
    """Maps on two processes of which one lacks memory once, or twice."""
    from lossatlas.landscape.engines.batched import BatchedEngine
    from lossatlas.landscape.engines.in_place import InPlaceEngine
    from lossatlas.landscape.engines.plain import PlainEngine

    objective = objectives(rank)["data"]()
    plane = la.random_plane(objective, seed=3)
    found = {}
    for engine in (BatchedEngine, PlainEngine):
        options = {"points": 7, "adaptive": False, "engine": engine.name}

        def mapped(**more):
            land = la.map_plane(objective, plane, **options, **more)  # noqa: B023
            return [land.values.tolist(), list(land.notes)]

        place, file = (engine, "moments"), folder / f"{engine.name}.resume"
        with Scarce(place, rank, 1) as scarce:
            once = told(mapped)
        with Scarce(place, rank, 2, 9):
            twice = told(lambda: mapped(resume=file))  # noqa: B023
        found[engine.name] = {"whole": mapped(), "once": once, "calls": scarce.calls,
                              "twice": twice, "again": mapped(resume=file)}  # fmt: skip
    for kind in ("sharded", "layers"):
        spread = objectives(rank)[kind]()
        plane = la.random_plane(spread)

        def mapped():
            land = la.map_plane(spread, plane, points=5, adaptive=False)  # noqa: B023
            return [land.values.tolist(), list(land.notes)]

        with Scarce((InPlaceEngine, "_walk"), rank, 9):
            once = told(mapped)
        with Scarce((InPlaceEngine, "_walk"), rank, 9, 99):
            twice = told(mapped)
        found[kind] = {"once": once, "twice": twice, "whole": mapped()}
    return found


def curvature_without_memory(rank: int, folder: Path):
    """The same of products with the Hessian, and of the basis that they are kept in."""
    objective = objectives(rank)["data"]()

    def traced():
        here = la.trace(objective, limit=20, seed=1)
        return [here.value, here.stderr, here.products, here.meaning]

    def norm():
        here = curvature.frobenius_norm(objective, limit=20, seed=1)
        return [here.value, here.stderr, here.meaning]

    def top():
        here = la.spectrum(objective, top=2, bottom=0, density=False, seed=1)
        return [here.top.tolist(), here.bounds.tolist(), here.note]

    operator = curvature.operators.CurvatureOperator
    places = {"product": (operator, "_add_batches"), "basis": (Basis, "append")}
    found = {}
    for name, call in {"trace": traced, "norm": norm, "spectrum": top}.items():
        found[name] = {"whole": call()}
        for kind, place in places.items():
            with Scarce(place, rank, 3):
                found[name][kind] = told(call)
        with Scarce(places["product"], rank, 5, 99):
            found[name]["twice"] = told(call)
    return found


def fails_in_a_pass(rank: int, folder: Path):
    """A loss that fails once on the last process, in passes that need all of them."""
    last, broken = distributed.get_world_size() - 1, []

    def loss(model, batch):
        if rank == last and broken:
            broken.clear()
            raise ValueError("a broken image")
        return CE(model, batch)

    held = batches()[rank :: last + 1]
    made = {"sharded": lambda: la.Objective(sharded(), loss, held)}
    if last == 1:
        made["layers"] = lambda: la.Objective(tensor_parallel(), loss, batches())
    found = {}
    for kind, build in made.items():
        objective = build()
        plane = la.random_plane(objective)
        calls = {
            "value": objective.value,
            "gradient": lambda o=objective: flat(o.gradient()),
            "map": lambda o=objective, p=plane: la.map_plane(
                o, p, points=3, adaptive=False
            ).values.tolist(),
            "trace": lambda o=objective: la.trace(o, limit=4).value,
        }
        for name, call in calls.items():
            # Self-checks before the first number keep errors of passes to themselves.
            first = call()
            broken.append(True)
            started = time.monotonic()
            said = error(call)
            seconds = time.monotonic() - started
            broken.clear()
            found[f"{kind} {name}"] = [said, seconds, first == call()]
    return found


def fails_in_a_sum(rank: int, folder: Path):
    """Memory that runs out where sums are taken: before anything is sent, and within."""
    found = {}
    for name, place in {
        "before": ("lossatlas.ranks", "_prepared"),
        "within": ("torch.distributed", "all_reduce"),
    }.items():
        regroup(rank, folder)
        objective = objectives(rank)["data"]()
        before = flat(objective.gradient())
        with Scarce((sys.modules[place[0]], place[1]), rank, 0):
            started = time.monotonic()
            said = told(objective.gradient)
            seconds = time.monotonic() - started
        again = told(lambda: flat(objective.gradient()))  # noqa: B023
        found[name] = {"said": said, "seconds": seconds, "again": again, "before": before}
    regroup(rank, folder)
    return found


def killed_in_a_pass(rank: int, folder: Path):
    """The last process dies in a pass of a sharded model that the others wait in."""
    last, dies = distributed.get_world_size() - 1, []

    def loss(model, batch):
        if rank == last and dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return CE(model, batch)

    objective = la.Objective(sharded(), loss, batches()[rank :: last + 1])
    objective.value()
    dies.append(True)
    started = time.monotonic()
    return [error(objective.value), time.monotonic() - started]


CHECKS = [
    fails_in_a_pass,
    fails_in_a_sum,
    on_one_only,
    maps_without_memory,
    curvature_without_memory,
    destroyed,
]
