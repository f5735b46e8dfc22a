"""Extra memory of probing a model as large as GPT-2 small, each way in a process of its own."""

import json
import sys
from collections.abc import Callable
from typing import Any

import harness
import instrument_memory
import resident
from harness import Row

_SIZES = {"layers": 2 if harness.QUICK else 12, "width": 768, "heads": 12}
_VOCABULARY, _BLOCK, _BATCH, _TIME = 50257, 1024, 1, 32
_WAYS = ("forward", "lossatlas", "loss-landscapes 3.0.6", "Landscaper 1.3.1")
_MODULES = {"loss-landscapes 3.0.6": "loss_landscapes", "Landscaper 1.3.1": "landscaper"}


def rows() -> list[Row]:
    """Peak resident memory above the model, less that of a plain forward, in copies of it.

    Returns:
        One row a peer.
    """
    if not resident.KNOWN:
        return [Row("extra memory of a probe", note="not measured: needs Linux's /proc")]
    peaks = {
        way: resident.measured(__file__, way)
        for way in _WAYS
        if way not in _MODULES or harness.installed(_MODULES[way])
    }
    floor, weights = peaks["forward"]["above"], peaks["forward"]["weights"]
    extra = {way: max(0.0, (p["above"] - floor) / weights) for way, p in peaks.items()}
    millions = peaks["forward"]["parameters"] / 1e6
    what = f"extra memory of a 2x2 map, random GPT of {millions:.0f}M parameters, streaming "
    what += "with half a copy free"
    note = f"a copy is {weights / 2**20:.0f} MiB, a forward takes {floor / 2**20:.0f} MiB"
    probes = [
        Row(
            what,
            peer,
            extra["lossatlas"],
            extra.get(peer),
            "copies",
            "<= 0.6 copies",
            note if peer in extra else "not measured: peer is not installed",
        )
        for peer in _WAYS[2:]
    ]
    return [*probes, *instrument_memory.rows()]


def _probe(way: str) -> dict[str, float]:
    """What one process measures of itself."""
    import torch

    torch.set_num_threads(1)
    # Once on a tiny model: libraries that load on first use are not the probe's memory.
    _job(way, _case(vocabulary=64, block=_BLOCK, layers=1, width=8, heads=1))()
    case = _case(vocabulary=_VOCABULARY, block=_BLOCK, **_SIZES)
    job = _job(way, case)
    before = resident.start_watching()
    job()
    parameters = sum(p.numel() for p in case.model.parameters())
    weights = sum(p.numel() * p.element_size() for p in case.model.parameters())
    return {
        "above": resident.status("VmHWM") - before,
        "parameters": parameters,
        "weights": weights,
    }


def _case(**sizes: int) -> Any:
    import torch
    from subjects import Case

    from lossatlas.training.models import build_model

    model = build_model("chargpt", **sizes).eval()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            # Fresh biases are zero, by whose norm loss-landscapes divides.
            value[value == 0] = 0.01
    tokens = torch.randint(sizes["vocabulary"], (_BATCH, _TIME + 1), generator=source)
    return Case(model, tokens[:, :-1], tokens[:, 1:], "random")


def _job(way: str, case: Any) -> Callable[[], Any]:
    import torch
    from torch.nn import functional as F

    def loss(model: Any, batch: tuple[Any, Any]) -> Any:
        return F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1])

    @torch.no_grad()
    def forward(*_: Any) -> float:
        return loss(case.model, (case.inputs, case.targets)).item()

    def survey() -> Any:
        import lossatlas as la
        from lossatlas.landscape.engines import streaming

        # As on a machine where half a copy of the weights is free: it takes what it finds.
        size = sum(p.numel() * p.element_size() for p in case.model.parameters())
        streaming.free_memory = lambda _device: size // 2
        objective = la.Objective(case.model, loss, [(case.inputs, case.targets)], check=False)
        plane = la.random_plane(objective, seed=0)
        return la.map_plane(objective, plane, points=2, adaptive=False, engine="streaming")

    def peer(name: str) -> Callable[[], Any]:
        import peers

        if name.startswith("Landscaper"):
            return lambda: _call(peers.landscaper, case, 2, forward)
        return lambda: _call(peers.loss_landscapes, case, 2, forward, copy=False)

    return {"forward": forward, "lossatlas": survey}.get(way) or peer(way)


def _call(make: Callable[..., Callable[[], Any]], *args: Any, **options: Any) -> Any:
    # Made inside the watched time: directions that the user must bring count too.
    return make(*args, **options)()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_probe(sys.argv[1])))
    else:
        for row in rows():
            print(row, row.ratio, row.reached)
