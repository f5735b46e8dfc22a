"""Peak memory of a spectrum above that of a bare product, each in a process of its own."""

import json
import sys

import harness  # noqa: F401 (sets what OpenMP reads before torch starts it)
import resident
import torch
from harness import Row
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import hessian, spectrum, spectrum_memory
from lossatlas.rng import generator


def row() -> Row:
    """What a spectrum takes beyond its basis, in copies of the weights."""
    what = "memory of a spectrum beyond basis, model and graph, 1M parameters"
    if not resident.KNOWN:
        return Row(what, note="not measured: needs Linux's /proc")
    product, found = (resident.measured(__file__, way) for way in ("product", "spectrum"))
    extra = (found["above"] - product["above"]) / found["copy"] - found["rows"]
    note = (
        f"{found['rows']} rows in the basis; said beforehand for as many products: "
        f"{found['said'] / found['copy']:.0f} copies in all"
    )
    return Row(what, "", max(extra, 0.0), None, "copies", "<= 2 copies", note)


def _probe(way: str) -> dict[str, float]:
    torch.set_num_threads(1)
    # Once on a tiny model: libraries that load on first use are not the spectrum's memory.
    spectrum(_objective(8, 4), top=2, bottom=0, density=False)
    objective = _objective(2048, 512)
    before = resident.start_watching()
    rows = 0
    if way == "spectrum":
        rows = 1 + spectrum(objective, top=2, bottom=0, density=False).products
    else:
        matrix = hessian(objective)
        matrix.flat(matrix.zeros())
    copy = sum(value.nbytes for value in objective.params.values())
    said = spectrum_memory(objective, max(rows - 1, 1))
    above = resident.status("VmHWM") - before
    return {"above": above, "copy": copy, "rows": rows, "said": said}


def _objective(inputs: int, hidden: int) -> la.Objective:
    drawn = generator(0, "wide")
    layers = (nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    batch = (
        torch.randn(16, inputs, generator=drawn),
        torch.randint(10, (16,), generator=drawn),
    )
    loss = la.supervised(F.cross_entropy)
    return la.Objective(nn.Sequential(*layers), loss, [batch], check=False)


if __name__ == "__main__":
    print(json.dumps(_probe(sys.argv[1])))
