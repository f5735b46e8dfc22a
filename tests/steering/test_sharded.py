"""FSDP2 on two processes: the decisions and weights of one process with the whole model."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distributed import processes
from lossatlas.errors import ArgumentError
from lossatlas.rng import generator

fsdp = pytest.importorskip("torch.distributed.fsdp")
if not hasattr(fsdp, "fully_shard"):
    pytest.skip("FSDP2 came with torch 2.6", allow_module_level=True)


def network():
    drawn = generator("sharded")
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn) * 0.3)
    return model


def batch(step):
    drawn = generator("sharded", step)
    return torch.randn(8, 6, generator=drawn), torch.randint(0, 4, (8,), generator=drawn)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def trained(model, kind):
    from lossatlas.steering import (
        SAM,
        GrowthPolicy,
        LandscapeLR,
        PolynomialAverage,
        RegimePolicy,
    )

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    average = PolynomialAverage(model, (4, 16))
    policy = {"growth": GrowthPolicy(), "regime": RegimePolicy(hysteresis=1)}.get(kind)
    controller = (
        None
        if policy is None
        else LandscapeLR(optimizer, policy, interval=2, warmup=0, model=model)
    )
    sam = SAM(optimizer, 0.1)
    for step in range(6):
        x, y = batch(step)

        def closure(x=x, y=y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        if kind == "sam":
            sam.step(closure)
        else:
            optimizer.zero_grad()
            loss = closure()
            optimizer.step()
        if controller is not None:
            controller.step(lambda x=x, y=y: F.cross_entropy(model(x), y), loss=loss)
        average.update()
    with average.swapped(), torch.no_grad():
        shown = F.cross_entropy(model(batch(0)[0]), batch(0)[1]).item()
    back = F.cross_entropy(model(batch(0)[0]), batch(0)[1]).item()
    state = copy.deepcopy(average.state_dict())
    average.load_state_dict(state)
    log = [] if controller is None else controller.log
    return {
        "weights": [whole(p.detach()).flatten().tolist() for p in model.parameters()],
        "average": [whole(p).flatten().tolist() for p in state["averages"]["16"].values()],
        "losses": [shown, back],
        "scales": [record.scales[0] for record in log],
        "failed": [record.reason for record in log if record.failed],
    }


def sharded(rank, folder):
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for kind in ("growth", "regime", "sam"):
        model = network()
        fsdp.fully_shard(model[0], mesh=mesh)
        fsdp.fully_shard(model, mesh=mesh)
        found[kind] = trained(model, kind)
    found["refused"] = refusals(model)
    return found


def refusals(model):
    from lossatlas.steering import EdgePolicy, LandscapeLR, RegimePolicy

    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    for policy in (EdgePolicy(), RegimePolicy()):
        try:
            LandscapeLR(optimizer, policy)
        except ArgumentError as error:
            said.append(str(error))
    return said


def test_shards_are_served_as_the_whole_model(tmp_path):
    first, second = (found["sharded"] for found in processes.run([sharded], 2, tmp_path))
    assert "failed" not in first, first["failed"]
    assert first == second
    for kind in ("growth", "regime", "sam"):
        alone, ours = trained(network(), kind), first[kind]
        assert ours["failed"] == []
        assert len(ours["scales"]) == len(alone["scales"])
        for name in ("weights", "average"):
            for a, b in zip(ours[name], alone[name], strict=True):
                assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
        assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert ours["losses"][0] != ours["losses"][1]
        assert ours["scales"] == pytest.approx(alone["scales"], rel=1e-4)
    edge, regime = first["refused"]
    assert "no second derivatives" in edge
    assert "`model` must be given" in regime
