"""Two processes: one decision, the same averages, the training of one bare optimizer."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from distributed import processes
from lossatlas.rng import generator
from lossatlas.steering.averaging import PolynomialAverage
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.policies import RegimePolicy
from lossatlas.steering.reading import Decision


class Wavy(RegimePolicy):
    """Turns every reading into another scale, so that ranks by themselves would part."""

    def decide(self, state, reading):
        factor = 0.7 + 0.3 * abs(math.sin(1000 * reading.variability))
        return state, Decision(factor, "wavy")


def batch(rank, step):
    drawn = generator("ranks", rank, step)
    return torch.randn(8, 5, generator=drawn), torch.randint(0, 3, (8,), generator=drawn)


def network():
    drawn = generator("network")
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn) * 0.3)
    return model


def trained(model, rank, steering):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    controller = None
    if steering:
        ratios = {"min_ratio": 1.0} if steering == "watch" else {}
        controller = LandscapeLR(optimizer, Wavy(), interval=2, warmup=0, **ratios)
    average = PolynomialAverage(model)
    for step in range(6):
        x, y = batch(rank, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if controller is not None:
            controller.step(lambda x=x, y=y: F.cross_entropy(model(x), y, reduction="none"))
        average.update()
    return controller, average


def data_parallel(rank, folder):
    found = {}
    for steering in ("", "watch", "steer"):
        model = network()
        parallel = nn.parallel.DistributedDataParallel(model)
        controller, average = trained(parallel, rank, steering)
        found[steering] = {
            "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
            "log": [] if controller is None else [str(r) for r in controller.log],
        }
    batches = [batch(rank, step) for step in range(3)]
    with average.swapped(batches):
        found["statistics"] = model[1].running_var.tolist()
    return found


def test_every_rank_takes_the_decision_of_the_first(tmp_path):
    found = processes.run([data_parallel], 2, tmp_path)
    first, second = (one["data_parallel"] for one in found)
    assert "failed" not in first, first["failed"]
    assert first == second
    assert first["watch"]["weights"] == first[""]["weights"]
    assert first["steer"]["weights"] != first[""]["weights"]
    assert len(first["steer"]["log"]) == 3
