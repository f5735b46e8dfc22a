"""A map over Ray's workers beside the same map in one process: wall time and what was sent.

`python benchmarks/ray_efficiency.py [WORKERS] [POINTS]` prints JSON; needs Ray and an idle
machine, as wall time is what workers are for. Maps are interleaved; the first one of Ray builds
its actors.
"""

import itertools
import json
import os
import statistics
import sys
import time

import harness  # noqa: F401  sets the threads before torch is imported
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.executor import Ray

ROUNDS = 2


def main(workers: int = 2, points: int = 61) -> None:
    # Ray lowers the priority of its workers, which on a busy machine is what would be measured.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    torch.set_num_threads(1)
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    sent: list[int] = []
    put = ray.put
    ray.put = lambda value, **more: (sent.append(len(value)), put(value, **more))[1]
    objective, plane = _subject()
    runs: dict[str, list[float]] = {"serial": [], "ray": []}
    maps = {}
    executor = Ray(workers)
    for _ in range(ROUNDS):
        for name, where in (("serial", "serial"), ("ray", executor)):
            began = time.perf_counter()
            maps[name] = la.map_plane(
                objective, plane, points=points, adaptive=False, executor=where
            )
            runs[name].append(time.perf_counter() - began)
    one, many = statistics.median(runs["serial"]), min(runs["ray"])
    report = {
        "serial_seconds": one,
        "ray_seconds": runs["ray"],
        "efficiency": one / many / workers,
        "efficiency_first": one / runs["ray"][0] / workers,
        "parcels_sent": len(sent),
        "parcel_over_model_and_data": sent[0] / _bytes(objective),
        "equal_bits": bool((maps["serial"].values == maps["ray"].values).all()),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


def _subject():
    torch.manual_seed(0)
    widths = (64, 512, 512, 512, 10)
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.GELU()]
    model = torch.nn.Sequential(*layers[:-1])
    inputs, targets = torch.randn(1500, 64), torch.randint(0, 10, (1500,))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(inputs, targets)])
    return objective, la.random_plane(objective, seed=0)


def _bytes(objective: la.Objective) -> int:
    model = sum(p.numel() * p.element_size() for p in objective.model.parameters())
    return model + 1500 * (64 * 4 + 8)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
