"""Peak memory of a spectrum, in a process of its own; `large`: 302M parameters in bfloat16."""

import json
import sys
from typing import Any

import harness  # noqa: F401 (sets what OpenMP reads before torch starts it)
import resident
import torch
from harness import Row
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import hessian, spectrum, spectrum_memory
from lossatlas.rng import generator


def rows() -> list[Row]:
    """Announced over taken, beyond a bare product, and the peak in copies of the weights."""
    what = "memory of a spectrum, MLP of 1M parameters, top 5"
    if not resident.KNOWN:
        return [Row(what, note="not measured: needs Linux's /proc")]
    product, found = (resident.measured(__file__, way) for way in ("product", "spectrum"))
    copy = found["copy"]
    # A product has its two vectors already, which `spectrum_memory` counts as well.
    taken = (found["above"] - product["above"]) / copy + 2
    peak, said = found["above"] / copy, found["said"] / copy
    note = f"announced {said:.1f} copies, taken {taken:.1f}; {found['products']:.0f} products"
    return [
        Row(f"{what}: peak", "", peak, None, "copies", "<= 30 copies", note),
        Row(f"{what}: announced over taken", "", said / taken, None, "", "0.9 to 1.2", note),
    ]


def _probe(way: str) -> dict[str, float]:
    torch.set_num_threads(1)
    wanted: dict[str, Any] = {"top": 5, "bottom": 0}
    # Once on a tiny model: libraries that load on first use are not the spectrum's memory.
    spectrum(_objective(8, 4), density=False, **(wanted | {"top": 2}))
    objective = _objective(2048, 512)
    before = resident.start_watching()
    products = 1
    if way == "spectrum":
        products = spectrum(objective, density=False, **wanted).products
    else:
        matrix = hessian(objective)
        matrix.flat(matrix.zeros())
    copy = sum(value.nbytes for value in objective.params.values())
    above = resident.status("VmHWM") - before
    said = spectrum_memory(objective, **wanted)
    return {"above": above, "copy": copy, "said": said, "products": products}


def _objective(inputs: int, hidden: int) -> la.Objective:
    drawn = generator(0, "wide")
    layers = (nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    batch = (
        torch.randn(16, inputs, generator=drawn),
        torch.randint(10, (16,), generator=drawn),
    )
    loss = la.supervised(F.cross_entropy)
    return la.Objective(nn.Sequential(*layers), loss, [batch], check=False)


class Residual(nn.Module):
    """A stack of square layers in bfloat16."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        made = (
            nn.Linear(width, width, bias=False, dtype=torch.bfloat16) for _ in range(layers)
        )
        self.layers = nn.ModuleList(made)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            inputs = inputs + 0.2 * torch.tanh(layer(inputs))
        return inputs


def _large() -> dict[str, Any]:
    """One eigenvalue of 302M parameters in bfloat16: the peak of the whole process."""
    torch.manual_seed(0)
    batch = tuple(torch.randn(4, 4096, dtype=torch.bfloat16) for _ in range(2))
    model, loss = Residual(18, 4096), la.supervised(F.mse_loss)
    objective = la.Objective(model, loss, [batch])
    kept: dict[str, Any] = {"top": 1, "bottom": 0, "rows": 4, "basis": "half"}
    said = spectrum_memory(objective, **kept)
    found = spectrum(objective, density=False, limit=14, **kept)
    return {
        "parameters": found.parameters,
        "eigenvalue": float(found.top[0]),
        "bound": float(found.top_bounds[0]),
        "products": found.products,
        "announced GiB": said / 2**30,
        "peak GiB": resident.status("VmHWM") / 2**30,
    }


if __name__ == "__main__":
    print(json.dumps(_large() if sys.argv[1] == "large" else _probe(sys.argv[1])))
