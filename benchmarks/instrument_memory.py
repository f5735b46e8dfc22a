"""What instruments announce and take, each in a process of its own; `WAY` measures one."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import harness
import resident
import torch
from harness import Row
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature, weights

# Tensors beyond what the allocator keeps for itself when they are freed (32 MiB).
_WIDTH = 600 if harness.QUICK else 3000
# Of the objective that is measured: what edits are given is not theirs.
_FACTORS: dict[int, weights.Factors] = {}
# Examples of a batch: as many where activations are what is held as make more than noise.
_FEW, _MANY = 8, {"value": _WIDTH, "representations": _WIDTH // 10}
# 400 vectors of 18M parameters would be 29 GB; factors of wide layers take many minutes.
_NARROW = {"learning_coefficient": _WIDTH // 15, "edit_curve": 2 * _WIDTH // 5}
Call = Callable[[la.Objective, dict[str, Any], dict[str, Any]], Any]


def _sgd(objective: la.Objective) -> torch.optim.Optimizer:
    return torch.optim.SGD(objective.model.parameters(), lr=0.1)


def _made_before(objective: la.Objective) -> weights.Factors:
    if id(objective) not in _FACTORS:
        _FACTORS[id(objective)] = weights.factors(objective, examples=0)
    return _FACTORS[id(objective)]


def _representations(objective: la.Objective, *_: dict[str, Any]) -> None:
    features = curvature.activations(objective, "4", side="input")
    curvature.rankme(features)
    curvature.effective_rank(features, "participation")
    curvature.alpha_req(features)


# Name -> options of the plan, and the call that they are of.
_WAYS: dict[str, tuple[dict[str, Any], Call]] = {
    "value": ({}, lambda o, a, b: o.value()),
    "gradient": ({}, lambda o, a, b: o.gradient()),
    "spectrum": (
        {"top": 2, "bottom": 1, "rows": 7, "limit": 10},
        lambda o, a, b: la.spectrum(o, top=2, bottom=1, density=False, limit=10, rows=7),
    ),
    "trace": ({"limit": 20, "rows": 4}, lambda o, a, b: la.trace(o, limit=20, rows=4)),
    "frobenius_norm": (
        {"limit": 20, "rows": 4},
        lambda o, a, b: curvature.frobenius_norm(o, limit=20, rows=4),
    ),
    "diagonal": (
        {"limit": 16, "rows": 4},
        lambda o, a, b: curvature.diagonal(o, limit=16, rows=4),
    ),
    "edge_of_stability": (
        {"limit": 6},
        lambda o, a, b: curvature.edge_of_stability(o, _sgd(o), limit=6),
    ),
    "average_sharpness": ({}, lambda o, a, b: curvature.average_sharpness(o, directions=2)),
    "worst_sharpness": ({}, lambda o, a, b: curvature.worst_sharpness(o, steps=3)),
    "m_sharpness": ({"size": 4}, lambda o, a, b: curvature.m_sharpness(o, 4, sets=2)),
    "roughness": ({}, lambda o, a, b: curvature.roughness(o, directions=2, points=3)),
    "gradient_noise": ({}, lambda o, a, b: curvature.gradient_noise(o)),
    "connect": (
        {"kind": "bezier"},
        lambda o, a, b: weights.connect(o, a, b, points=3, kind="bezier", steps=3),
    ),
    "merge": ({"experts": 2}, lambda o, a, b: weights.merge(o, a, b, a)),
    "soup": ({}, weights.soup),
    "sensitivity": ({}, lambda o, a, b: weights.sensitivity(o, probes=2)),
    "effective_parameters": (
        {"numbers": 10 * (_WIDTH + 1)},
        lambda o, a, b: curvature.effective_parameters(
            o, 1.0, names="4.*", tolerance=0.5, probes=2
        ),
    ),
    "factors": ({"examples": 0}, lambda o, a, b: weights.factors(o, examples=0)),
    "choose": ({}, weights.choose),
    "learning_coefficient": (
        {},
        lambda o, a, b: curvature.learning_coefficient(
            o, chains=1, draws=400, temperature=1e4, localization=1.0
        ),
    ),
    "edit_curve": (
        {},
        lambda o, a, b: weights.edit_curve(o, _made_before(o), keep=[0.5]),
    ),
    "plasticity": ({}, lambda o, a, b: curvature.plasticity(o, tasks=1, steps=2)),
    "representations": ({}, _representations),
    "window_fisher": ({"window": 6}, lambda o, a, b: weights.window_fisher(o, window=6)),
}


def rows() -> list[Row]:
    """Announced over true peak of every instrument, and what asking takes."""
    if not resident.KNOWN:
        return [Row("memory of instruments", note="not measured: needs Linux's /proc")]
    return [_row(way) for way in _WAYS]


def _row(way: str) -> Row:
    # Otherwise glibc keeps up to 64 MiB of what is freed, whatever is measured.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    found = resident.measured(__file__, way)
    said, taken, copy = (found[key] for key in ("said", "above", "copy"))
    note = f"announced {said / copy:.2f} copies, taken {taken / copy:.2f}; asking took "
    note += f"{found['asking'] / 2**20:.1f} MiB"
    note += "; at most, and a run that converges early takes less" * bool(found["at_most"])
    target = ">= 0.9" if found["at_most"] else "0.9 to 1.2"
    what = f"memory of '{way}', MLP of {found['parameters'] / 1e6:.2g}M parameters"
    return Row(f"{what}: announced over taken", "", said / taken, None, "", target, note)


def _probe(way: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    options, call = _WAYS[way]
    # Once on a tiny model: libraries that load on first use are not the instrument's memory.
    small = _objective(16)
    call(small, small.params, {n: 1.01 * v for n, v in small.params.items()})
    curvature.plan_memory(small, way, **options)
    objective = _objective(_NARROW.get(way, _WIDTH), _MANY.get(way, _FEW))
    first = objective.params
    other = {n: 1.01 * v for n, v in first.items()}
    if way == "edit_curve":
        _made_before(objective)
    before = resident.start_watching()
    plan = curvature.plan_memory(objective, way, **options)
    asking = resident.status("VmHWM") - before
    before = resident.start_watching()
    call(objective, first, other)
    return {
        "said": plan.memory,
        "at_most": plan.at_most,
        "asking": asking,
        "above": resident.status("VmHWM") - before,
        "copy": sum(value.nbytes for value in first.values()),
        "parameters": sum(value.numel() for value in first.values()),
    }


def _objective(width: int, examples: int = _FEW) -> la.Objective:
    torch.manual_seed(0)
    layers = (nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    batches = [(torch.randn(examples, width), torch.randint(10, (examples,))) for _ in range(2)]
    return la.Objective(model, la.supervised(F.cross_entropy), batches)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_probe(sys.argv[1])))
    else:
        for way in _WAYS if resident.KNOWN else ():
            row = _row(way)
            print(row.what, row.ours, row.note, flush=True)
